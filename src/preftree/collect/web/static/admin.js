// The admin's page: invite people, pause them, sign out.

const $ = (id) => document.getElementById(id);

async function post(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Token": document.body.dataset.token },
    body: JSON.stringify(body),
  }).catch(() => null);
  if (response?.ok) return response.json();
  const said = response ? await response.json().catch(() => ({})) : {};
  document.querySelector(".status").textContent = said.error ?? "The server is away.";
  return null;
}

$("invite").addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = await post("/admin/invitations", { name: $("name").value });
  if (!answer) return;
  $("link").hidden = false;
  $("link").textContent = `${answer.name}: ${answer.link}`;
  $("name").value = "";
});

for (const button of document.querySelectorAll("[data-annotator]")) {
  button.addEventListener("click", async () => {
    const answer = await post("/admin/annotators", { annotator: Number(button.dataset.annotator), state: button.dataset.state });
    if (answer) location.reload();
  });
}

$("sign-out").addEventListener("click", async () => {
  if (await post("/admin/sign-out", {})) location.reload();
});

for (const time of document.querySelectorAll("time[data-second]")) {
  const date = new Date(1000 * Number(time.dataset.second));
  time.dateTime = date.toISOString();
  time.textContent = date.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

const waits = document.querySelector("[data-waits]");
if (waits) setTimeout(() => location.reload(), Number(waits.dataset.waits));
