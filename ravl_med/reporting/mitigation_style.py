"""How the HTML of a mitigation looks: the palette of the PDF, for a screen, a phone and paper."""

from __future__ import annotations

__all__ = ["STYLE"]

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
h2 { font-size: 1.3rem; line-height: 1.3; margin: 2.6rem 0 0.5rem; padding-top: 1.2rem;
  border-top: 2px solid var(--ink); }
h3 { font-size: 1rem; margin: 1.4rem 0 0.3rem; }
p { margin: 0.3rem 0 0.6rem; max-width: 48rem; }
ul { margin: 0.2rem 0 0.6rem; padding-left: 1.3rem; max-width: 48rem; }
p, li, caption, tbody th, .mono { overflow-wrap: anywhere; }
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
thead th { vertical-align: bottom; font-weight: bold; color: var(--muted); font-size: 0.8rem;
  border-bottom: 2px solid var(--ink); }
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
.signatures { margin: 1.4rem 0 0.6rem; }
.signatures tbody td, .signatures tbody th { height: 2.6rem; }
@media (max-width: 40rem) {
  tbody th { min-width: 5.5rem; }
  .verdict { flex-wrap: wrap; }
  .verdict .draft { margin-left: 0; }
}
@page { size: A4; margin: 16mm; }
@media print {
  html { font-size: 10.5px; }
  main, footer { max-width: none; padding: 0; }
  h2 { break-after: avoid; border-top: 0; }
  #delivered, #arms { break-before: page; }
  h3, caption { break-after: avoid; }
  tr, figure, .verdict, .signatures { break-inside: avoid; }
  thead { display: table-header-group; }
  .wide { overflow: visible; }
  th, td { padding-right: 0.5rem; min-width: 0; }
  tbody th { min-width: 7rem; }
  pre { white-space: pre-wrap; background: none; padding: 0; }
}
"""
