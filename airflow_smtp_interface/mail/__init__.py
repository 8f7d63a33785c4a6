"""The mail core: composing, serialising and delivering e-mail. It knows no Airflow."""
