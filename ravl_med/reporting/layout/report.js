(() => {
"use strict";
const all = (query, from = document) => [...from.querySelectorAll(query)];
const by = (id) => document.getElementById(id);

// The contents stand at the side where there is room; else they are folded away.
const contents = document.querySelector(".contents details");
if (contents && !matchMedia("(min-width: 78rem)").matches) contents.open = false;

// Region boxes: one state for the whole page.
const toggles = all("[data-boxes]");
for (const toggle of toggles) {
  toggle.addEventListener("click", () => {
    const bare = document.documentElement.classList.toggle("bare");
    for (const other of toggles) other.setAttribute("aria-pressed", String(!bare));
  });
}

// Entries by mark; "#kind=shortcut" in the address chooses too.
const controls = by("controls");
const entries = all(".entry");
const choices = all('input[name="kind"]');
function show(kind) {
  let shown = 0;
  for (const entry of entries) {
    entry.hidden = kind !== "all" && !entry.dataset.marks.split(" ").includes(kind);
    shown += entry.hidden ? 0 : 1;
  }
  by("shown").textContent = `${shown} of ${entries.length} ${controls.dataset.word} shown`;
}
function choose(kind) {
  const choice = choices.find((one) => one.value === kind);
  if (!choice) return;
  choice.checked = true;
  show(kind);
}
function follow() {
  const asked = /^#kind=([a-z-]+)$/.exec(location.hash);
  if (asked) {
    choose(asked[1]);
    return;
  }
  const target = by(location.hash.slice(1));
  if (target && target.closest(".entry[hidden]")) {
    choose("all");
    target.scrollIntoView();
  }
}
if (controls) {
  controls.hidden = false;
  for (const choice of choices) {
    choice.addEventListener("change", () => {
      show(choice.value);
      try { history.replaceState(null, "", `#kind=${choice.value}`); } catch { /* a local file */ }
    });
  }
  show("all");
  window.addEventListener("hashchange", follow);
  follow();
}

// Films opened large, in a dialog of the browser: Escape closes it, the focus goes back.
const viewer = by("viewer");
const films = all(".film");
let current = null;
function open(film) {
  current = film;
  const frame = by("viewer-frame");
  frame.replaceChildren(...[...film.children].map((part) => part.cloneNode(true)));
  frame.style.setProperty("--ratio", film.style.getPropertyValue("--ratio"));
  by("viewer-name").textContent = film.querySelector("img").alt;
  const alone = siblings().length < 2;
  by("viewer-before").hidden = alone;
  by("viewer-after").hidden = alone;
  if (!viewer.open) {
    viewer.showModal();
    by("viewer-close").focus();
  }
}
function siblings() {
  const group = current.closest(".shots");
  return group ? all(".film", group) : [current];
}
function step(places) {
  const group = siblings();
  open(group[(group.indexOf(current) + places + group.length) % group.length]);
}
if (viewer && viewer.showModal) {
  for (const film of films) {
    film.disabled = false;
    film.addEventListener("click", () => open(film));
  }
  by("viewer-before").addEventListener("click", () => step(-1));
  by("viewer-after").addEventListener("click", () => step(1));
  by("viewer-close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  viewer.addEventListener("close", () => { if (current) current.focus(); });
}

// A table that fits needs no stop of its own for the keyboard.
function fit() {
  for (const table of all(".wide")) {
    table.tabIndex = table.scrollWidth > table.clientWidth ? 0 : -1;
  }
}
window.addEventListener("resize", fit);
fit();
})();
