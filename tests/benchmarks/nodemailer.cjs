// Nodemailer as a sender: one job in a fresh process, as senders.py does it. Arguments: the name (unused) and the job.
const fs = require("node:fs");
const nodemailer = require("nodemailer");

const job = JSON.parse(process.argv[3]);
const mail = { from: job.from, to: job.to, subject: job.subject, html: job.html, text: job.text };
if (job.attachment) mail.attachments = [{ path: job.attachment }];

const transport = nodemailer.createTransport({
  host: job.host, port: job.port, secure: false, ignoreTLS: !job.login, requireTLS: job.login,
  auth: job.login ? { user: job.user, pass: job.pass } : undefined,
  pool: true, maxConnections: job.connections, maxMessages: Infinity,
});

function memory(field) {
  const status = fs.readFileSync("/proc/self/status", "utf8");
  return Number(status.match(new RegExp(`${field}:\\s+(\\d+)`))[1]) / 1024;
}

async function main() {
  fs.writeFileSync("/proc/self/clear_refs", "5");
  const before = memory("VmRSS"), cpu = process.cpuUsage(), wall = process.hrtime.bigint();
  await Promise.all(Array.from({ length: job.mails }, () => transport.sendMail(mail)));
  const used = process.cpuUsage(cpu);
  const figures = { wall: Number(process.hrtime.bigint() - wall) / 1e9, cpu: (used.user + used.system) / 1e6 };
  console.log("FIGURES", JSON.stringify({ ...figures, memory: memory("VmHWM") - before }));
  transport.close();
}

main();
