"""The style sheet of the HTML report: light and dark, from a telephone's width to a printed page."""

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --page: #f5f6f8; --ink: #1c1f24; --quiet: #5f6772; --rule: #dfe3e8;
  --good: #0072b2; --bad: #c44d00; --good-soft: #e3f0f8; --bad-soft: #fcebdf; --shade: rgba(20, 30, 45, .06); }
@media (prefers-color-scheme: dark) { :root { --paper: #1b1e23; --page: #121418; --ink: #eceef1; --quiet: #9aa3af;
  --rule: #333942; --good: #56b4e9; --bad: #f2903f; --good-soft: #15303f; --bad-soft: #3d2614; --shade: transparent; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Noto Sans", "Helvetica Neue", Arial, sans-serif; -webkit-text-size-adjust: 100%; }
main { max-width: 1160px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 32px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.015em; }
h2 { font-size: 25px; line-height: 1.25; margin: 0 0 8px; letter-spacing: -.01em; overflow-wrap: anywhere; }
h3 { font-size: 17px; margin: 34px 0 10px; }
p { margin: 0 0 10px; }
a { color: var(--good); text-decoration-thickness: 1px; text-underline-offset: 5px; }
.quiet, .why { color: var(--quiet); }
.why { font-size: 13px; line-height: 1.4; }
.card { background: var(--paper); border: 1px solid var(--rule); border-radius: 14px; padding: 28px 32px 32px;
  margin-top: 28px; box-shadow: 0 1px 3px var(--shade); }
.headline { font-size: 19px; line-height: 1.5; max-width: 58em; margin-bottom: 4px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 12px; margin: 22px 0 6px; }
.tile { background: var(--page); border-radius: 10px; padding: 14px 18px; }
.tile.good { background: var(--good-soft); } .tile.bad { background: var(--bad-soft); }
.tile b { display: block; font-size: 27px; line-height: 1.25; font-weight: 650; letter-spacing: -.01em; }
.tile b small { font-size: 16px; font-weight: 500; color: var(--quiet); letter-spacing: 0; }
.tile span { font-size: 13.5px; color: var(--quiet); display: block; line-height: 1.4; }
.scroll { overflow-x: auto; } .scroll + .why { margin-top: 8px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 15px; }
th { text-align: left; font-weight: 600; font-size: 13px; color: var(--quiet); vertical-align: bottom; }
th, td { padding: 9px 20px 9px 0; border-bottom: 1px solid var(--rule); }
td { vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
.number { text-align: right; white-space: nowrap; }
td.explained b { display: inline-block; min-width: 10.5em; font-weight: 500; }
td.name { overflow-wrap: break-word; min-width: 9em; max-width: 26em; }
tr.sum td { font-weight: 650; border-bottom: 0; border-top: 2px solid var(--rule); }
tbody tr:last-child td { border-bottom: 0; }
.bar { display: inline-block; width: 72px; height: 7px; border-radius: 4px; background: var(--rule); margin-left: 10px;
  vertical-align: middle; overflow: hidden; }
.bar i { display: block; height: 100%; border-radius: 4px; background: var(--bad); }
.charts { display: grid; grid-template-columns: minmax(0, 2fr) minmax(0, 1fr); gap: 36px; align-items: start; }
.chart { width: 100%; height: auto; display: block; }
.chart text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; fill: var(--quiet); }
.chart text.strong { font-weight: 600; fill: var(--ink); }
.chart .good { fill: var(--good); } .chart .bad { fill: var(--bad); }
.chart text.good.strong { fill: var(--good); } .chart text.bad.strong { fill: var(--bad); }
.chart .track { opacity: .28; } .chart .rim { stroke: var(--paper); stroke-width: 2.5; }
.chart .stroke { stroke-width: 2; opacity: .55; }
.chart .good.stroke { stroke: var(--good); } .chart .bad.stroke { stroke: var(--bad); }
.chart .axis { stroke: var(--quiet); stroke-width: 1; } .chart .grid { stroke: var(--rule); stroke-width: 1; }
.chart .threshold { stroke: var(--ink); stroke-width: 2; }
.chart .asked { stroke: var(--quiet); stroke-width: 1.5; stroke-dasharray: 4 4; }
.chart .curve { fill: none; stroke: var(--ink); stroke-width: 2.5; stroke-linejoin: round; }
.chart .area { fill: var(--good); opacity: .09; }
.chart .point { fill: var(--bad); stroke: var(--paper); stroke-width: 2.5; }
figure { margin: 14px 0 0; border: 1px solid var(--rule); border-radius: 12px; padding: 16px 18px 18px; }
figcaption { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 14px; margin-bottom: 12px; }
figcaption .file { font-weight: 600; overflow-wrap: anywhere; min-width: 0; }
figcaption .gauge { flex: 0 1 300px; margin-left: auto; min-width: 220px; }
.pill { font-size: 12.5px; font-weight: 700; letter-spacing: .03em; padding: 3px 12px; border-radius: 99px;
  color: var(--paper); background: var(--quiet); white-space: nowrap; }
.pill.good { background: var(--good); } .pill.bad { background: var(--bad); }
.panels { display: grid; align-items: end; gap: 14px 16px;
  grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); }
.panels.square.two-rows { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.panels.wide { grid-template-columns: 1fr; }
.panels.narrow { grid-template-columns: repeat(auto-fit, minmax(90px, 160px)); }
.panel span { display: flex; justify-content: space-between; gap: 12px; align-items: center; font-size: 13.5px;
  color: var(--quiet); margin-bottom: 5px; }
.panel img { display: block; width: 100%; height: auto; border-radius: 5px; outline: 1px solid var(--rule); }
.strip { overflow-x: auto; } .strip img { display: block; max-width: 100%; min-width: min(100%, 700px); height: auto;
  border-radius: 8px; }
.scale { flex: 0 0 84px; height: 12px; } .scale line { stroke: var(--ink); stroke-width: 1.5; }
dl { display: grid; grid-template-columns: minmax(9em, max-content) 1fr; gap: 5px 22px; margin: 0; font-size: 15px; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
details { margin-top: 14px; } summary { cursor: pointer; color: var(--quiet); } details > .scroll { margin-top: 10px; }
ul.problems { margin: 0; padding: 0; list-style: none; font-size: 15px; }
ul.problems li { padding: 8px 0; border-bottom: 1px solid var(--rule); overflow-wrap: anywhere; }
ul.problems li:last-child { border-bottom: 0; }
@media (max-width: 820px) { .charts { grid-template-columns: minmax(0, 1fr); }
  .charts > :last-child svg { margin: 0 auto; } }
@media (max-width: 600px) { main { padding: 22px 10px 40px; } .card { padding: 20px 16px 22px; border-radius: 12px; }
  h1 { font-size: 26px; padding: 0 6px; } header p { padding: 0 6px; } h2 { font-size: 22px; }
  .headline { font-size: 17px; }
  .tiles { grid-template-columns: 1fr 1fr; } .tile { padding: 12px 14px; } .tile b { font-size: 22px; }
  .panels.square, .panels.square.two-rows { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 10px; }
  td.explained b, td.explained .why { display: block; }
  figure { padding: 12px; } figcaption .gauge { margin: 0 auto; } th, td { padding-right: 14px; }
  .bar { display: none; } .number.limits { white-space: normal; min-width: 5.5em; }
  .scroll > svg { min-width: 540px; } .strip img { min-width: 700px; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 8px; } .scale { flex-basis: 56px; } }
@media print { :root { color-scheme: light; --paper: #fff; --page: #fff; --ink: #1c1f24; --quiet: #5f6772;
  --rule: #d5d9df; --good: #0072b2; --bad: #c44d00; --good-soft: #e3f0f8; --bad-soft: #fcebdf; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  body { font-size: 12px; } main { max-width: none; padding: 0; } .card { border: 0; padding: 0; box-shadow: none; }
  .headline { font-size: 16px; } .tiles { grid-template-columns: repeat(4, 1fr); }
  .tile { border: 1px solid var(--rule); } .tile b { font-size: 21px; }
  .charts { grid-template-columns: minmax(0, 2fr) minmax(0, 1fr); gap: 20px; }
  table, dl { font-size: 11px; } th { font-size: 10px; } th, td { padding: 4px 10px 4px 0; } .why { font-size: 10px; }
  .scroll { overflow: visible; } .scroll > svg { min-width: 0; } .bar { width: 40px; } .panel span { font-size: 10px; }
  .panels.square, .panels.square.two-rows { grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 8px; }
  section.card[id] { break-before: page; } header + section.card[id] { break-before: auto; }
  details:not([open]) { display: none; } figure, .tile, .chart, tr { break-inside: avoid; }
  h2, h3, h3 + .why { break-after: avoid; } }
"""
