"""How the HTML of a report looks: the palette of the PDF, for a screen, a phone and paper."""

from __future__ import annotations

__all__ = ["READING_STYLE", "STYLE"]

STYLE = """\
:root { --ink: #1b2733; --muted: #5a6772; --rule: #ccd4da; }
* { box-sizing: border-box; }
html { font-size: 15px; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; color: var(--ink); background: #ffffff;
  font: 1rem/1.55 "DejaVu Sans", Verdana, "Segoe UI", system-ui, sans-serif;
}
main, footer { max-width: 62rem; margin: 0 auto; padding: 1.2rem 1rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0.4rem 0 0.2rem; }
.chapter, .entry > :first-child { font-size: 1.3rem; line-height: 1.3; margin: 2.6rem 0 0.5rem;
  padding-top: 1.2rem; border-top: 2px solid var(--ink); }
.section { font-size: 1rem; margin: 1.4rem 0 0.3rem; }
p { margin: 0.3rem 0 0.6rem; max-width: 48rem; }
ul { margin: 0.2rem 0 0.6rem; padding-left: 1.3rem; max-width: 48rem; }
p, li, h1, .chapter, .entry > :first-child, .section, caption, .mono { overflow-wrap: anywhere; }
.lead { font-size: 1.07rem; }
.muted, footer { color: var(--muted); font-size: 0.85rem; }
.verdict { display: flex; align-items: center; gap: 1rem; padding: 0.9rem 1.1rem;
  margin: 0.9rem 0; border-radius: 6px;
  -webkit-print-color-adjust: exact; print-color-adjust: exact; }
.verdict p { margin: 0; }
.verdict svg { flex: none; }
.verdict .word { font-size: 1.7rem; font-weight: bold; line-height: 1.2; }
.verdict .draft { margin-left: auto; border: 1.5px solid currentColor; border-radius: 4px;
  padding: 0.1rem 0.6rem; font-weight: bold; white-space: nowrap; }
.wide { overflow-x: auto; margin: 1.2rem 0 0.3rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.88rem; line-height: 1.4; }
caption { text-align: left; font-weight: bold; font-size: 1rem; padding: 0.2rem 0; }
th, td { text-align: left; vertical-align: middle; padding: 0.28rem 0.7rem 0.28rem 0.15rem;
  border-bottom: 1px solid var(--rule); font-weight: normal; min-width: 3.2rem; }
tbody th { min-width: 8.5rem; }
tbody th.slim { min-width: 2.6rem; }
.link { white-space: nowrap; }
thead th, thead td { vertical-align: bottom; font-weight: bold; font-size: 0.8rem;
  color: var(--muted); border-bottom: 2px solid var(--ink); }
.right { text-align: right; font-variant-numeric: tabular-nums; }
.mono, pre { font-family: "DejaVu Sans Mono", Consolas, monospace; font-size: 0.8rem; }
td.mono { min-width: 8rem; }
.dots { min-width: 12rem; }
.dots svg { width: 12rem; }
pre { overflow-x: auto; padding: 0.7rem; background: #f4f6f8; border-radius: 4px; }
svg { display: block; max-width: 100%; height: auto; font-family: inherit;
  stroke-linecap: round; stroke-linejoin: round; }
.panels { display: flex; flex-wrap: wrap; gap: 1rem 1.2rem; }
.panels figure { flex: 0 0 19rem; max-width: 100%; margin: 0; }
.panels svg { width: 100%; }
figcaption { font-weight: bold; font-size: 0.88rem; }
.dots svg, .flow svg { overflow: visible; }
.flow { margin: 1.4rem 0 0; }
.flow .wide { margin: 0.5rem 0; }
.flow figcaption { font-size: 1rem; }
.flow svg { width: min(100%, 54rem); min-width: 44rem; max-width: none; }
.signatures { margin: 1.4rem 0 0.6rem; }
.signatures tbody td, .signatures tbody th { height: 2.6rem; }
#sign-off ~ .signatures { table-layout: fixed; overflow-wrap: anywhere; }
#sign-off ~ .signatures td + td, #sign-off ~ .signatures th + td {
  border-left: 1px solid var(--rule); }
.remarks { height: 7rem; border: 1px solid var(--rule); }
@media (max-width: 40rem) {
  tbody th { min-width: 5.5rem; }
  tbody th.slim { min-width: 2rem; }
  .verdict { flex-wrap: wrap; }
  .verdict .draft { margin-left: 0; }
}
@page { size: A4; margin: 16mm; }
@media print {
  html { font-size: 10.5px; }
  main, footer { max-width: none; padding: 0; }
  .chapter, .entry > :first-child { break-after: avoid; border-top: 0; }
  #delivered, #arms, #cohort, #performance, #method, #sign-off, .entry { break-before: page; }
  .section, caption { break-after: avoid; }
  tr, figure, .verdict, .signatures, .remarks { break-inside: avoid; }
  thead { display: table-header-group; }
  .wide { overflow: visible; }
  .flow svg { width: 100%; min-width: 0; }
  th, td { padding-right: 0.5rem; min-width: 0; }
  tbody th { min-width: 7rem; }
  tbody th.slim { min-width: 2rem; }
  pre { white-space: pre-wrap; background: none; padding: 0; }
}
"""

READING_STYLE = """\
[hidden] { display: none !important; }
a { color: #0b5fa5; }
:focus-visible { outline: 3px solid #0b5fa5; outline-offset: 2px; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap; }
.skip { position: absolute; left: 0.5rem; top: -4rem; padding: 0.5rem 0.8rem; z-index: 2;
  background: #ffffff; }
.skip:focus { top: 0.5rem; }
.contents { max-width: 62rem; margin: 0 auto; padding: 0.8rem 1rem 0; font-size: 0.88rem; }
.contents ol { margin: 0.3rem 0; padding-left: 1.3rem; }
.contents summary { display: inline-block; cursor: pointer; font-weight: bold; }
.contents a { display: inline-block; padding: 0.15rem 0; overflow-wrap: anywhere; }
.wide + p:not(.muted) { margin-top: 0.8rem; }
th.inner { padding-left: 0.9rem; }
.beside { display: grid; grid-template-columns: minmax(0, 1fr) 13rem; gap: 1.4rem;
  align-items: start; }
.shots { display: grid; grid-template-columns: repeat(5, minmax(0, 1fr));
  gap: 0.9rem 0.7rem; align-items: end; margin: 0.5rem 0; }
.shot { margin: 0; text-align: center; }
.shot figcaption { font-weight: normal; font-size: 0.78rem; line-height: 1.35; color: var(--muted);
  margin-top: 0.25rem; overflow-wrap: anywhere; }
.film { display: block; position: relative; margin: 0 auto; padding: 0; border: 0; background: none;
  width: min(100%, calc(15rem * var(--ratio))); cursor: zoom-in; }
.film.sided { width: min(100% - 2.4rem, calc(15rem * var(--ratio))); }
.film:disabled { cursor: auto; }
.edge { position: absolute; right: calc(100% + 0.15rem); top: 50%; transform: translateY(-50%);
  width: 1rem; border-radius: 2px; background: #10161c; color: #ffffff;
  font: bold 0.72rem/1rem "DejaVu Sans", Verdana, sans-serif; text-align: center;
  -webkit-print-color-adjust: exact; print-color-adjust: exact; }
.film img, .frame img { display: block; width: 100%; height: auto; }
.boxes { position: absolute; left: 0; top: 0; width: 100%; height: 100%; overflow: visible;
  pointer-events: none; }
.boxes rect { fill: none; vector-effect: non-scaling-stroke; }
.bare .boxes { display: none; }
.controls { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap;
  align-items: center; gap: 0.4rem 1.2rem; padding: 0.5rem 0; margin-top: 2rem;
  background: #ffffff; border-bottom: 1px solid var(--rule); font-size: 0.88rem; }
.controls fieldset { display: flex; flex-wrap: wrap; gap: 0.2rem 1rem; margin: 0; padding: 0;
  border: 0; }
.controls legend { float: left; padding: 0.2rem 0; margin-right: 1rem; font-weight: bold; }
.controls label { white-space: nowrap; padding: 0.2rem 0; }
.controls p { margin: 0; color: var(--muted); }
.entry > :first-child { scroll-margin-top: 5rem; }
button.plain { font: inherit; padding: 0.3rem 0.8rem; border: 1.5px solid var(--ink);
  border-radius: 4px; background: #ffffff; color: var(--ink); cursor: pointer; }
button[aria-pressed="true"] { background: var(--ink); color: #ffffff; }
button[aria-pressed="true"]::before { content: "✓ "; }
dialog { border: 0; border-radius: 6px; padding: 0.8rem 1.3rem; max-width: 97vw; max-height: 97vh;
  color: var(--ink); }
dialog::backdrop { background: rgb(16 22 28 / 85%); }
.frame { position: relative; width: min(92vw - 1rem, calc((97vh - 10rem) * var(--ratio)));
  margin: 0 auto 0.6rem; }
dialog p { max-width: 40rem; margin: 0.3rem auto; text-align: center; font-size: 0.88rem;
  overflow-wrap: anywhere; }
.buttons { display: flex; flex-wrap: wrap; gap: 0.5rem; justify-content: center; }
@media (prefers-reduced-motion: no-preference) { html { scroll-behavior: smooth; } }
@media (prefers-reduced-motion: reduce) {
  * { animation: none !important; transition: none !important; }
}
@media (max-width: 52rem) { .shots { grid-template-columns: repeat(3, minmax(0, 1fr)); } }
@media (max-width: 40rem) {
  .beside { grid-template-columns: minmax(0, 1fr); }
  .shots { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .controls { position: static; }
}
@media print {
  .skip, .contents, .controls, dialog { display: none !important; }
  .shots { grid-template-columns: repeat(5, 1fr); }
  .film { width: min(100%, calc(11rem * var(--ratio))); }
  .film.sided { width: min(100% - 2.4rem, calc(11rem * var(--ratio))); }
  .shot { break-inside: avoid; }
  a { color: inherit; text-decoration: none; }
}
"""
