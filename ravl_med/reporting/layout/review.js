(() => {
"use strict";
const all = (query, from = document) => [...from.querySelectorAll(query)];
const by = (id) => document.getElementById(id);
const data = JSON.parse(by("data").textContent);
const served = location.protocol !== "file:";
const cases = all(".case");
const form = by("decision");
const rank = (at) => cases[at].dataset.rank;
const id = (at) => cases[at].dataset.id;
let readings = {};  // by correlation: decision, until, reason, name, date
let current = 0;
let film = null;

// What was decided: on the server, or in this browser where the page comes from a disk.
const shelf = () => `ravl-med review ${data.run} ${by("role").value}`;
function kept() {
  try { return JSON.parse(localStorage.getItem(shelf())) || {}; } catch { return {}; }
}
function keep() {
  try { localStorage.setItem(shelf(), JSON.stringify(readings)); } catch { /* not allowed here */ }
}
async function ask(path, content) {
  let answer;
  try {
    answer = await fetch(path, content === undefined ? {} : {
      method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ run: data.run, ...content }),
    });
  } catch {
    throw new Error("The review has ended or its machine is gone. What is listed as decided is "
      + "saved; start ravl-med review again, or download review.csv.");
  }
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error);
  return said;
}
function take(state) {
  readings = state.readings;
  const differing = state.differing.length ? ` They differ on No. ${state.differing.join(", ")}: `
    + "choose “both readers together” to settle it." : "";
  by("agreement").textContent = state.agreement + differing;
  by("draw").hidden = !state.unwritten;
}
async function load() {
  if (served) take(await ask(`state?role=${by("role").value}`));
  else readings = kept();
}
const decided = (at) => Boolean((readings[id(at)] || {}).decision);

// The list, and the one correlation that is shown.
function list() {
  const links = all("#list a");
  cases.forEach((one, at) => {
    const said = readings[id(at)] || {};
    all(".state", links[at])[0].textContent = said.decision ? `✓ ${said.decision}`
      : one.dataset.asked === "1" ? "to decide" : "may be decided";
    links[at].toggleAttribute("aria-current", at === current);
  });
  const asked = cases.map((_, at) => at).filter((at) => cases[at].dataset.asked === "1");
  const done = asked.filter(decided).length;
  by("progress").textContent = `${done} of ${asked.length} decided. `
    + (served ? "Everything is saved." : "Kept in this browser: download review.csv at the end.");
}
function show(at, focus = true) {
  current = Math.max(0, Math.min(at, cases.length - 1));
  cases.forEach((one, index) => { one.hidden = index !== current; });
  const one = cases[current];
  by("question").textContent = `Is what is outlined part of ${one.dataset.raised}?`;
  const said = readings[id(current)] || {};
  const same = /^same\D*(\d+)/.exec(said.decision || "");
  by("same").replaceChildren(...cases.filter((other) => other !== one).map((other) =>
    new Option(other.dataset.rank, other.dataset.rank, false, same && same[1] === other.dataset.rank)));
  choose(same ? "same" : said.decision || "", false);
  by("until").value = said.until || "";
  by("reason").value = said.reason || "";
  say("");
  list();
  const films = all(".film", one);
  by("viewer").hidden = !films.length;
  all(".place", one)[0].append(by("viewer"));
  if (films.length) open(films[0]);
  if (focus) { all("h2", one)[0].focus(); scrollTo(0, 0); }
}
function next() {
  const order = cases.map((_, at) => (current + 1 + at) % cases.length);
  const left = order.find((at) => cases[at].dataset.asked === "1" && !decided(at));
  if (left === undefined) { list(); all("h2", cases[current])[0].focus(); } else show(left);
}

// The decision.
function chosen() {
  const radio = all('input[name="decision"]').find((one) => one.checked);
  return radio ? radio.value : "";
}
function choose(value, focus = true) {
  for (const radio of all('input[name="decision"]')) radio.checked = radio.value === value;
  by("phrases").replaceChildren(...(data.phrases[value] || []).map((text) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "plain";
    button.textContent = text;
    button.addEventListener("click", () => { by("reason").value = text; by("reason").focus(); });
    return button;
  }));
  const one = cases[current].dataset;
  by("warning").textContent = value === "disease" ? one.warning
    : value === "chance" && one.counts === "1"
      ? "The model is shown to use it on other patients: the decision stays open." : "";
  if (focus) by({ same: "same", accepted: "until" }[value] || "reason").focus();
}
function say(text, good = false) {
  by("message").textContent = text;
  by("message").classList.toggle("good", good);
}
async function save(decision) {
  const said = {
    correlation: id(current), decision, until: decision === "accepted" ? by("until").value : "",
    reason: decision ? by("reason").value.trim() : "",
  };
  const name = by("name").value.trim();
  if (!name) { say("Your initials first."); by("name").focus(); return false; }
  if (decision && !said.reason && !decision.startsWith("same")) {
    say("A decision needs a reason.");
    by("reason").focus();
    return false;
  }
  if (decision === "accepted" && !said.until) {
    say("Until when is it tolerated?");
    by("until").focus();
    return false;
  }
  try {
    if (served) take(await ask("save", { ...said, role: by("role").value, name }));
    else {
      readings[said.correlation] = { ...said, name, date: today() };
      keep();
    }
  } catch (error) { say(error.message); return false; }
  return true;
}
function today() {
  const now = new Date();
  return new Date(now - 60000 * now.getTimezoneOffset()).toISOString().slice(0, 10);
}
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const value = chosen();
  if (!value) { say("Choose one of 1 to 6."); return; }
  if (await save(value === "same" ? `same as No. ${by("same").value}` : value)) {
    next();
    say("Saved.", true);
  }
});
for (const radio of all('input[name="decision"]')) {
  radio.addEventListener("change", () => choose(radio.value, false));
}
async function undo() {
  if (await save("")) { show(current); say("Taken back.", true); }
}
by("undo").addEventListener("click", undo);

// review.csv for whoever has no server.
by("download").addEventListener("click", () => {
  const heads = Object.keys(data.rows[0] || {});
  const cell = (text) => {
    const plain = /^[=+\-@]/.test(text) ? ` ${text}` : text;
    return /[",\r\n]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
  };
  const rows = data.rows.map((row) => {
    const said = readings[row.correlation] || {};
    const shown = said.decision ? { ...row, decision: said.decision, until: said.until,
      reason: said.reason, name: said.name, date: said.date } : row;
    return heads.map((head) => cell(head === "correlation" ? `c-${row[head]}` : shown[head] || ""));
  });
  const text = [heads, ...rows].map((row) => row.join(",")).join("\n") + "\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = "review.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
});
by("draw").addEventListener("click", async () => {
  say("Drawing the report: some ten seconds.", true);
  try {
    const done = await ask("report", {});
    await load();
    list();
    say(done.text, true);
  } catch (error) { say(error.message); }
});

// The film, large: zoom, move, window and level.
const view = { x: 0, y: 0 };
function open(button) {
  film = button;
  for (const one of all(".film")) one.toggleAttribute("aria-current", one === button);
  const layer = document.createElement("div");
  layer.className = "layer";
  layer.append(...[...button.children].filter((part) => !part.matches(".edge"))
    .map((part) => part.cloneNode(true)));
  by("frame").replaceChildren(layer, ...all(".edge", button).map((part) => part.cloneNode(true)));
  by("caption").textContent = all("figcaption", button.parentNode)[0].innerText.replaceAll("\n", " · ");
  by("changed").hidden = !button.dataset.changed;
  reset();
}
function reset() {
  Object.assign(view, { x: 0, y: 0 });
  by("zoom").value = 1;
  by("window").value = 255;
  by("level").value = 128;
  by("changed").setAttribute("aria-pressed", "false");
  draw();
}
function draw() {
  const layer = all(".layer")[0];
  if (!layer) return;
  const frame = by("frame").getBoundingClientRect();
  const shape = film.style.getPropertyValue("--ratio");
  const height = Math.min(frame.height, frame.width / shape);
  Object.assign(layer.style, { width: `${height * shape}px`, height: `${height}px`,
    transform: `translate(-50%, -50%) translate(${view.x}px, ${view.y}px) scale(${by("zoom").value})` });
  const width = Number(by("window").value);
  const slope = 255 / width;
  const shift = 0.5 - slope * by("level").value / 255;
  for (const part of ["R", "G", "B"]) {
    const one = all(`feFunc${part}`)[0];
    one.setAttribute("slope", slope.toFixed(3));
    one.setAttribute("intercept", shift.toFixed(3));
  }
}
for (const slider of ["zoom", "window", "level"]) by(slider).addEventListener("input", draw);
by("frame").addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(event.deltaY < 0 ? 0.5 : -0.5);
}, { passive: false });
function zoom(more) {
  by("zoom").value = Number(by("zoom").value) + more;
  if (by("zoom").value === "1") Object.assign(view, { x: 0, y: 0 });
  draw();
}
by("frame").addEventListener("pointerdown", (event) => by("frame").setPointerCapture(event.pointerId));
by("frame").addEventListener("pointermove", (event) => {
  if (!event.buttons) return;
  if (event.shiftKey || event.buttons === 2) {
    by("window").value = Number(by("window").value) + event.movementX;
    by("level").value = Number(by("level").value) + event.movementY;
  } else Object.assign(view, { x: view.x + event.movementX, y: view.y + event.movementY });
  draw();
});
function step(places) {
  const films = all(".film", cases[current]);
  if (films.length) open(films[(films.indexOf(film) + places + films.length) % films.length]);
}
function boxes() {
  const bare = document.documentElement.classList.toggle("bare");
  by("boxes").setAttribute("aria-pressed", String(!bare));
}
function change() {
  if (by("changed").hidden) return;
  const on = by("changed").getAttribute("aria-pressed") !== "true";
  by("changed").setAttribute("aria-pressed", String(on));
  const image = all(".layer img")[0];
  const own = all("img", film)[0];
  image.src = on ? film.dataset.changed : own.src;
  by("caption").textContent = on ? film.dataset.said : own.alt;
}
by("before").addEventListener("click", () => step(-1));
by("after").addEventListener("click", () => step(1));
by("boxes").addEventListener("click", boxes);
by("changed").addEventListener("click", change);
by("reset").addEventListener("click", reset);
for (const button of all(".film")) {
  button.disabled = false;
  button.addEventListener("click", () => open(button));
}
window.addEventListener("resize", draw);

// Keys, unless something is typed or they are switched off.
const decisions = ["disease", "shortcut", "chance", "cannot tell", "same", "accepted"];
const keys = {
  j: () => show(current + 1), k: () => show(current - 1), u: undo, b: boxes, " ": change,
  ArrowLeft: () => step(-1), ArrowRight: () => step(1), "+": () => zoom(0.5), "-": () => zoom(-0.5),
  0: reset,
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !by("keys").checked || !cases.length) return;
  const typing = event.target.closest("input:not([type=radio]):not([type=checkbox]), select");
  if (event.key === "Enter" && event.target === by("same")) { form.requestSubmit(); return; }
  if (typing && event.key === "Escape") { all("h2", cases[current])[0].focus(); return; }
  if (typing) return;
  if (event.key === " " && event.target.closest("button, summary, input")) return;
  if (/^Arrow/.test(event.key) && event.target.closest("input")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (/^[1-6]$/.test(key)) choose(decisions[key - 1]);
  else if (key === "Enter" && event.target.matches("h2, main, body")) form.requestSubmit();
  else if (keys[key]) keys[key]();
  else return;
  event.preventDefault();
});

async function start() {
  try { await load(); } catch (error) { say(error.message); }
  if (cases.length) {
    const first = cases.findIndex((one, at) => one.dataset.asked === "1" && !decided(at));
    form.hidden = false;
    show(Math.max(first, 0), false);
  }
}
by("role").addEventListener("change", start);
all("#list a").forEach((link, at) => link.addEventListener("click", (event) => {
  event.preventDefault();
  show(at);
}));
try {
  by("name").value = localStorage.getItem("ravl-med reader") || "";
  by("name").addEventListener("change", () => localStorage.setItem("ravl-med reader", by("name").value));
} catch { /* not allowed here */ }
start();
})();
