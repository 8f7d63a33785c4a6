"""One mail shown as a page: what is shown, the page, its stylesheet. Knows neither Airflow nor a mail's origin."""
