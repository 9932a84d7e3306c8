// The voting page: one key is one vote, and no vote is lost.
// A vote is written to localStorage before anything else, sent in order, and removed when the server has kept it.

const BEHIND_A_VOTE = 120; // milliseconds in which a second press is taken for the first one's bounce
const MOST_UNDONE = 20;
const ENOUGH = 5; // pairs ahead, above which no more are asked for
const AT_ONCE = 100;
const who = document.body.dataset.who;
const place = (name) => `preftree/${location.origin}/${who}/${name}`;
const $ = (id) => document.getElementById(id);

let pairs = []; // pairs to vote on, the first is on the screen
let unsent = []; // actions that the server has not kept yet, in order: {name, vote}
let done = []; // the last actions of this page, newest last: {shown, turn, said, card}
let refused = []; // messages of actions that the server will never keep
let visible = 0; // milliseconds of the pair on the visible tab
let since = document.hidden ? null : performance.now();
let lastPress = -BEHIND_A_VOTE;
let strength = null;
let formatted = false;
let isLoading = false;
let isAskedAgain = false; // for more pairs, while it was loading
let isSending = false;
let away = 0; // failures in a row
let trouble = ""; // what the last one was
let ended = ""; // message of a session that has ended
let canKeep = true;
let counts = { mine: 0, votes: 0, needed: 0 };

// What this browser keeps

function keep(name, value) {
  try {
    localStorage.setItem(place(name), JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

function recall() {
  const found = [];
  try {
    for (let index = 0; index < localStorage.length; index++) {
      const name = localStorage.key(index);
      if (name.startsWith(place("vote/"))) found.push({ name, vote: JSON.parse(localStorage.getItem(name)) });
    }
    done = JSON.parse(localStorage.getItem(place("done")) ?? "[]");
    formatted = JSON.parse(localStorage.getItem(place("formatted")) ?? "false");
  } catch {
    canKeep = false;
  }
  unsent = found.sort((a, b) => (a.name < b.name ? -1 : 1));
  put.number = Number(unsent.at(-1)?.name.split("/").at(-1) ?? 0);
}

// Sending and loading

async function ask(path, body) {
  const request = body === undefined ? {} : {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Token": document.body.dataset.token },
    body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, { ...request, signal: AbortSignal.timeout(20000) });
  } catch {
    throw { isAway: true, message: "The server is away" };
  }
  if (response.ok) return response.json();
  const said = await response.json().catch(() => ({}));
  throw { isAway: response.status >= 500, status: response.status, message: said.error ?? `Error ${response.status}` };
}

async function send() {
  if (isSending || ended) return;
  isSending = true;
  let most = AT_ONCE;
  while (unsent.length && !ended) {
    const batch = unsent.slice(0, most);
    try {
      count(await ask("/votes", { votes: batch.map((entry) => entry.vote) }));
      drop(batch);
      away = 0;
    } catch (error) {
      if (error.isAway) {
        away += 1;
        trouble = error.message;
        break;
      }
      if (error.status === 403 && error.message.includes("session")) ended = error.message;
      else if (batch.length > 1) most = 1; // find the one that is refused
      else {
        refused.push(error.message);
        keep(`refused/${batch[0].vote.shown}.${batch[0].vote.turn}`, { ...batch[0].vote, message: error.message });
        drop(batch);
      }
    }
    show();
  }
  isSending = false;
  show();
  if (unsent.length && !ended) setTimeout(send, Math.min(5000, 500 * away));
  else load();
}

function drop(batch) {
  unsent = unsent.slice(batch.length);
  for (const { name } of batch) localStorage.removeItem(name);
}

async function load() {
  if (pairs.length > ENOUGH) return;
  isAskedAgain ||= isLoading;
  if (isLoading || isSending || ended || unsent.length) return;
  isLoading = true;
  try {
    const have = pairs.map((card) => card.shown).join(",");
    const answer = await ask(`/next?have=${have}&html=${formatted ? 1 : 0}`);
    count(answer);
    const known = new Set([...pairs, ...unsent.map((entry) => entry.vote)].map((entry) => entry.shown));
    const wasEmpty = !pairs.length;
    for (const card of answer.pairs) if (!known.has(card.shown) && !isDone(card)) pairs.push(card);
    away = 0;
    if (wasEmpty && pairs.length) begin();
    if (!pairs.length && !isAskedAgain) setTimeout(load, 4000);
  } catch (error) {
    if (error.status === 403) ended = error.message;
    else {
      away += 1;
      trouble = error.message;
      setTimeout(load, Math.min(5000, 500 * away));
    }
  }
  isLoading = false;
  show();
  if (isAskedAgain) {
    isAskedAgain = false;
    load();
  }
}

// Whether this page has voted on it in the meantime, at this turn or a later one.
const isDone = (card) => done.some((entry) => entry.shown === card.shown && entry.turn >= card.turn);

const count = ({ mine, votes, needed }) => (counts = { mine, votes, needed });

// Voting

function act(kind, side = null) {
  const card = pairs[0];
  const now = performance.now();
  if (!card || $("guide").open || now - lastPress < BEHIND_A_VOTE) return;
  lastPress = now;
  const vote = { shown: card.shown, turn: card.turn, kind, ms: Math.round(time()), note: $("note").value.trim() };
  if (side) vote.side = side;
  if (strength && (side === "left" || side === "right")) vote.strength = strength;
  const words = { left: "Answer 1 is better", right: "Answer 2 is better", tie: "Equal", bad: "Both bad" };
  const said = side ? words[side] : kind === "skip" ? "Skipped" : "Flagged";
  pairs.shift();
  remember({ shown: card.shown, turn: card.turn, said, side, card });
  put(vote);
  $("said").textContent = `Your last vote: ${said}.`;
  counts.mine += 1;
  begin();
}

function undo() {
  const now = performance.now();
  const last = done.at(-1);
  if (!last || $("guide").open || now - lastPress < BEHIND_A_VOTE) return;
  lastPress = now;
  done.pop();
  keep("done", done);
  put({ shown: last.shown, turn: last.turn + 1, kind: "undo", ms: 0, note: "" });
  counts.mine -= 1;
  if (last.card) bring({ ...last.card, turn: last.turn + 2 }, last);
  else
    ask(`/shown/${last.shown}?html=${formatted ? 1 : 0}`)
      .then((card) => bring({ ...card, turn: last.turn + 2 }, last))
      .catch(() => load());
}

function bring(card, last) {
  card.was = last.side;
  pairs = [card, ...pairs.filter((other) => other.shown !== card.shown)];
  begin();
  $("said").textContent = `Taken back: ${last.said}. Vote again.`;
}

function put(vote) {
  put.number = Math.max(Date.now(), put.number + 1); // in order, also after the clock was set back
  const name = place(`vote/${String(put.number).padStart(15, "0")}`);
  try {
    localStorage.setItem(name, JSON.stringify(vote));
  } catch {
    canKeep = false; // full or forbidden: it lives in this page until it is sent
  }
  unsent.push({ name, vote });
  send();
}
put.number = 0;

function remember(entry) {
  done = [...done, entry].slice(-MOST_UNDONE);
  // Long texts are left to the server: it shows the pair again.
  if (!keep("done", done)) keep("done", done.map(({ card, ...rest }) => rest));
}

// The screen

function begin() {
  visible = 0;
  since = document.hidden ? null : performance.now();
  strength = null;
  $("note").value = "";
  if (document.activeElement === $("note")) $("note").blur();
  render();
  scrollTo(0, 0);
}

function fill(element, { text, html }) {
  const isFormatted = formatted && html !== undefined;
  element.classList.toggle("formatted", isFormatted);
  // Formatted text comes cleaned from the server; all other text is text.
  if (isFormatted) element.innerHTML = html;
  else element.textContent = text;
}

function render() {
  const card = pairs[0];
  document.body.classList.toggle("is-empty", !card);
  for (const side of ["left", "right"]) {
    $(side).classList.toggle("chosen", card?.was === side);
    $(side).scrollTop = 0;
    if (card) fill($(side).querySelector(".text"), card[side]);
  }
  if (card && formatted && card.left.html === undefined) dress(card);
  $("prompt").replaceChildren();
  for (const [index, turn] of (card?.prompt ?? []).entries()) {
    const block = document.createElement("div");
    block.className = index === card.prompt.length - 1 ? "turn asks" : "turn";
    const role = document.createElement("div");
    role.className = "role";
    role.textContent = { prompt: "Prompt", user: "User", assistant: "Assistant", system: "System" }[turn.role] ?? turn.role;
    const text = document.createElement("div");
    text.className = "text";
    fill(text, turn);
    block.append(role, text);
    $("prompt").append(block);
  }
  show();
}

function show() {
  const status = $("status");
  const kept = `${unsent.length} ${unsent.length === 1 ? "vote" : "votes"} kept here`;
  if (ended) status.textContent = unsent.length ? `${ended} ${kept}.` : ended;
  else if (away) status.textContent = unsent.length ? `${trouble}: ${kept}` : trouble;
  else if (refused.length) status.textContent = `Not kept: ${refused.at(-1)}`;
  else if (!canKeep && unsent.length) status.textContent = "This browser keeps nothing: leave the page open";
  else status.textContent = unsent.length ? "Saving" : "All votes are saved";
  status.classList.toggle("away", Boolean(away || ended || refused.length));
  $("progress").max = Math.max(1, counts.needed);
  $("progress").value = counts.votes;
  $("count").textContent = `${counts.mine} by you · ${counts.votes} of ${counts.needed}`;
  const empty = $("empty");
  empty.hidden = pairs.length > 0;
  if (!pairs.length) {
    const isOver = counts.needed > 0 && counts.votes >= counts.needed;
    if (ended) empty.textContent = ended;
    else if (away) empty.textContent = `${trouble}, and this page has no more pairs. It goes on by itself.`;
    else if (isLoading || unsent.length) empty.textContent = "One moment";
    else empty.textContent = isOver ? "All pairs have their votes. Thank you." : "Nothing to vote on now. The last pairs are with others; this page looks again by itself.";
  }
  for (const button of document.querySelectorAll("[data-vote], [data-do='skip'], [data-do='flag']")) {
    button.disabled = !pairs.length;
  }
  document.querySelector("[data-do='undo']").disabled = !done.length;
  $("markdown").setAttribute("aria-pressed", formatted);
  for (const button of document.querySelectorAll("[data-strength]")) {
    button.setAttribute("aria-pressed", Number(button.dataset.strength) === strength);
  }
}

function time() {
  return visible + (since === null ? 0 : performance.now() - since);
}

document.addEventListener("visibilitychange", () => {
  visible = time();
  since = document.hidden ? null : performance.now();
});

function grade(value) {
  if (document.body.dataset.graded !== "yes" || !pairs.length) return;
  strength = strength === value ? null : value;
  show();
}

function toggleMarkdown() {
  formatted = !formatted;
  keep("formatted", formatted);
  render();
}

// Get the HTML of the pair on the screen where it came without.
async function dress(card) {
  try {
    Object.assign(card, { ...(await ask(`/shown/${card.shown}?html=1`)), turn: card.turn });
    if (card === pairs[0] && formatted) render();
  } catch {
    $("said").textContent = "Shown as plain text while the server is away.";
  }
}

// Keys and buttons

const KEYS = {
  1: () => act("vote", "left"), 2: () => act("vote", "right"), 0: () => act("vote", "tie"), x: () => act("vote", "bad"),
  s: () => act("skip"), f: () => act("flag"), u: undo, n: () => $("note").focus(), m: toggleMarkdown,
  "?": () => ($("guide").open ? $("guide").close() : $("guide").showModal()),
  3: () => grade(1), 4: () => grade(2), 5: () => grade(3), 6: () => grade(4),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing) return;
  if (event.target === $("note")) {
    if (event.key === "Escape" || event.key === "Enter") $("note").blur();
    return;
  }
  const deed = KEYS[event.key.toLowerCase()];
  if (deed === undefined) return;
  event.preventDefault();
  deed();
});

for (const button of document.querySelectorAll("[data-vote]")) {
  button.addEventListener("click", () => act("vote", button.dataset.vote));
}
for (const button of document.querySelectorAll("[data-do]")) {
  button.addEventListener("click", { undo, skip: () => act("skip"), flag: () => act("flag") }[button.dataset.do]);
}
for (const button of document.querySelectorAll("[data-strength]")) {
  button.addEventListener("click", () => grade(Number(button.dataset.strength)));
}
$("markdown").addEventListener("click", toggleMarkdown);
$("help").addEventListener("click", () => $("guide").showModal());
addEventListener("online", send);
addEventListener("beforeunload", (event) => {
  if (!canKeep && unsent.length) event.preventDefault();
});

recall();
if (document.querySelector("#guide .formatted") && localStorage.getItem(place("guided")) === null) {
  $("guide").showModal(); // once, where there are instructions
  keep("guided", true);
}
if (!keep("last", Date.now())) canKeep = false;
show();
send();
