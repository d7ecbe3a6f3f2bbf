"""The page about a data set, a Jinja template: one file, no scripts, readable offline, in the dark and on paper."""

from __future__ import annotations

__all__ = ["PAGE"]

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --panel: #f5f7f9; --ink: #1b2430; --soft: #5b6876; --line: #d9dfe5;
  --accent: #0b63b0; --warn: #9a5300; --warn-ground: #fdf1e0; --bad: #ad1f2d; --bad-ground: #fdecee;
  --good: #1d6b3a; --good-ground: #e8f5ec; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #12161b; --panel: #1b2128; --ink: #e6eaee; --soft: #9ba7b3; --line: #323b45; --accent: #7cb8f2;
    --warn: #f2b766; --warn-ground: #33281a; --bad: #ff8d97; --bad-ground: #3a1f23; --good: #86d7a0;
    --good-ground: #17301f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 4rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0; } p { margin: .25rem 0; }
.soft { color: var(--soft); } .small { font-size: .85rem; }
.facts { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0 0; padding: 0; list-style: none; }
.facts li { background: var(--panel); border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .9rem; }
.facts b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.facts .error { background: var(--bad-ground); } .facts .error b { color: var(--bad); }
.facts .warning { background: var(--warn-ground); } .facts .warning b { color: var(--warn); }
.facts .good { background: var(--good-ground); } .facts .good b { color: var(--good); }
.kind { border: 1px solid var(--line); border-left: .3rem solid var(--soft); border-radius: .5rem; margin: .6rem 0;
  padding: .6rem 1rem; background: var(--panel); overflow-wrap: anywhere; }
.kind.error { border-left-color: var(--bad); background: var(--bad-ground); }
.kind.warning { border-left-color: var(--warn); background: var(--warn-ground); }
.kind h3 span { font-weight: 400; } .kind.error h3 span { color: var(--bad); }
.kind.warning h3 span { color: var(--warn); }
.kind ul { margin: .3rem 0 0; padding-left: 1.1rem; } .kind li { margin: .15rem 0; }
summary { cursor: pointer; color: var(--soft); margin-top: .3rem; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; background: var(--panel); } tbody tr:last-child > * { border-bottom: 0; }
th:first-child, td:first-child, .text { text-align: left; }
.cases th:first-child { position: sticky; left: 0; max-width: 20rem; overflow: hidden; text-overflow: ellipsis; }
.long { max-height: 34rem; overflow-y: auto; } .long thead th { position: sticky; top: 0; z-index: 1; }
td.error { color: var(--bad); } td.warning { color: var(--warn); }
.swatch { display: inline-block; width: .75em; height: .75em; margin-right: .4em; border-radius: .15em; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: .6rem; overflow: hidden; }
figure img { display: block; width: 100%; height: auto; } .charts figure { padding: .6rem .8rem; }
figcaption { padding: .4rem .8rem; color: var(--soft); font-size: .85rem; } .charts figcaption { padding: 0 0 .3rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr)); gap: 1rem; }
.pictures figure { background: #0b0d10; align-self: start; } .pictures figcaption { color: #f2b766; }
.settings td { white-space: normal; text-align: left; vertical-align: top; } code, pre { font: .87rem/1.5 ui-monospace,
  "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; } td code { white-space: nowrap; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem;
  white-space: pre-wrap; overflow-wrap: anywhere; margin: .75rem 0; }
.wide + .wide, .wide + dl, pre + h3 { margin-top: 1.25rem; } h3 + .wide { margin-top: .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.25rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media print { body { max-width: none; padding: 0; font-size: 11px; } figure, .kind { break-inside: avoid; }
  .long { max-height: none; } }
"""

PAGE = (
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>"""
    + _STYLE
    + """</style>
</head>
<body>
<h1>{{ title }}</h1>
<p class="soft">{{ layout }} · {{ root }} · {{ created }}</p>
<p class="soft small">This page holds pictures of the scans: pass it on as carefully as them.</p>
<ul class="facts">
{% for fact in facts %}<li class="{{ fact.tone }}"><b>{{ fact.number }}</b> {{ fact.text }}</li>{% endfor %}
</ul>

<section id="problems">
<h2>Problems</h2>
{% if not kinds %}<p>None was found.</p>{% endif %}
{% for kind in kinds %}
<div class="kind {{ kind.severity }}"><h3>{{ kind.heading }}
<span>· {{ kind.severity }}{{ " · %d times" % kind.count if kind.count > 1 }}</span></h3>
<ul>{% for line in kind.first %}<li>{% if line.case %}<b>{{ line.case }}</b> {% endif %}{{ line.text }}</li>{% endfor %}
</ul>
{% if kind.others %}<details><summary>{{ kind.others | length }} more</summary>
<ul>{% for line in kind.others %}<li>{% if line.case %}<b>{{ line.case }}</b> {% endif %}{{ line.text }}</li>
{% endfor %}</ul></details>{% endif %}
</div>
{% endfor %}
</section>

{% if settings %}
<section id="suggestions">
<h2>Suggested settings</h2>
<div class="wide"><table class="settings"><tbody>
{% for one in settings %}<tr><td><code>{{ one.flags }}</code></td><td>{{ one.reason }}</td></tr>{% endfor %}
</tbody></table></div>
<pre>{{ command }}</pre>
{% if memory %}
<h3>Memory</h3>
<div class="wide"><table>
<thead><tr><th scope="col">{{ memory.model }}, {{ memory.image_size }} pixels</th>
{% for size in memory.sizes %}
<th scope="col">{{ size }} {{ "slice" if size == 1 else "slices" }} at once</th>{% endfor %}</tr></thead>
<tbody>
{% for row in memory.rows %}<tr><td>{{ row.name }}</td>
{% for value in row.cells %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
<p class="small soft">{{ memory.formula }}</p>
{% endif %}
</section>
{% endif %}

{% if pictures %}
<section id="pictures">
<h2>Cases to look at</h2>
<div class="pictures">
{% for picture in pictures %}
<figure><img src="{{ picture.source }}" alt="Slices of {{ picture.name }} with its labels over them">
{% if picture.problems %}<figcaption>{{ picture.name }}: {{ picture.problems }}</figcaption>{% endif %}</figure>
{% endfor %}
</div>
</section>
{% endif %}

{% if labels %}
<section id="labels">
<h2>Labels</h2>
<div class="wide"><table>
<thead><tr><th scope="col">label</th><th scope="col">cases that have it</th>
{% for split in splits %}<th scope="col">{{ split }}</th>{% endfor %}
<th scope="col">{{ unit }} per case: least · median · most</th><th scope="col">in all</th>
<th scope="col">intensity: 5 % · median · 95 %</th></tr></thead>
<tbody>
{% for row in labels %}
<tr><td><span class="swatch" style="background:{{ row.color }}"></span>{{ row.name }}</td><td>{{ row.share }}</td>
{% for count in row.by_split %}<td{% if not count %} class="error"{% endif %}>{{ count }}</td>{% endfor %}
<td>{{ row.per_case }}</td><td>{{ row.total }}</td><td>{{ row.intensity }}</td></tr>
{% endfor %}
</tbody></table></div>
</section>
{% endif %}

{% if charts %}
<section id="charts">
<h2>Over all cases</h2>
<div class="charts">
{% for chart in charts %}
<figure><figcaption>{{ chart.caption }}</figcaption><img src="{{ chart.source }}" alt="{{ chart.caption }}"></figure>
{% endfor %}
</div>
</section>
{% endif %}

{% if grid %}
<section id="fingerprint">
<h2>Scans</h2>
<div class="wide"><table>
<thead><tr><th scope="col"></th><th scope="col">least</th><th scope="col">median</th><th scope="col">most</th></tr>
</thead>
<tbody>
{% for row in grid %}<tr><td>{{ row.name }}</td><td>{{ row.min }}</td><td>{{ row.median }}</td>
<td>{{ row.max }}</td></tr>
{% endfor %}
</tbody></table></div>
<div class="wide"><table>
<thead><tr><th scope="col">intensity, percentile</th><th scope="col">least</th>
{% for one in percentiles %}<th scope="col">{{ one }}</th>{% endfor %}<th scope="col">most</th></tr></thead>
<tbody>
{% for row in intensities %}<tr><td>{{ row.name }}</td><td>{{ row.min }}</td>
{% for value in row.cells %}<td>{{ value }}</td>{% endfor %}<td>{{ row.max }}</td></tr>{% endfor %}
</tbody></table></div>
<dl>{% for key, value in about.items() %}<dt>{{ key }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
</section>
{% endif %}

{% if cases %}
<section id="cases">
<h2>All cases</h2>
<div class="wide long"><table class="cases">
<thead><tr><th scope="col">case</th><th scope="col" class="text">split</th>
<th scope="col" class="text">problems</th><th scope="col">slices × height × width</th>
<th scope="col">mm</th><th scope="col" class="text">orientation</th><th scope="col" class="text">type</th>
<th scope="col">intensities</th><th scope="col">labelled slices</th><th scope="col">{{ unit }} labelled</th>
</tr></thead>
<tbody>
{% for row in cases %}
<tr><th scope="row">{{ row.name }}</th><td class="text">{{ row.split }}</td>
<td class="text {{ row.tone }}">{{ row.problems }}</td><td>{{ row.shape }}</td>
<td>{{ row.spacing }}</td><td class="text">{{ row.orientation }}</td><td class="text">{{ row.type }}</td>
<td>{{ row.range }}</td><td>{{ row.labelled }}</td><td>{{ row.inside }}</td></tr>
{% endfor %}
</tbody></table></div>
</section>
{% endif %}
</body>
</html>
"""
)
"""Filled by [`~samed_hf.validation.report.write_report`], which escapes the values: any name may stand in it."""
