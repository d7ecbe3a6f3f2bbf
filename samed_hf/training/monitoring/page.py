"""The page of a training run, a Jinja template: one file, no scripts, readable offline, in the dark and on paper."""

from __future__ import annotations

__all__ = ["PAGE"]

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --panel: #f5f7f9; --ink: #1b2430; --soft: #5b6876; --line: #d9dfe5;
  --warn: #9a5300; --warn-ground: #fdf1e0; --good: #1d6b3a; --good-ground: #e8f5ec; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #12161b; --panel: #1b2128; --ink: #e6eaee; --soft: #9ba7b3; --line: #323b45;
    --warn: #f2b766; --warn-ground: #33281a; --good: #86d7a0; --good-ground: #17301f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 4rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
p { margin: .25rem 0; } .soft { color: var(--soft); } .small { font-size: .85rem; }
.note { border: 1px solid var(--line); border-left: .3rem solid var(--warn); border-radius: .5rem; margin: .6rem 0;
  padding: .6rem 1rem; background: var(--warn-ground); overflow-wrap: anywhere; }
.facts { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0 0; padding: 0; list-style: none; }
.facts li { background: var(--panel); border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .9rem; }
.facts b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.facts .warning { background: var(--warn-ground); } .facts .warning b { color: var(--warn); }
.facts .good { background: var(--good-ground); } .facts .good b { color: var(--good); }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: .5rem; }
.long { max-height: 30rem; overflow-y: auto; } .long thead th { position: sticky; top: 0; z-index: 1; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; background: var(--panel); } tbody tr:last-child > * { border-bottom: 0; }
@media (max-width: 30rem) { th, td { padding: .35rem .45rem; } }
th:first-child, td:first-child { text-align: left; }
tr.best td { background: var(--good-ground); font-weight: 600; } tr.mean td { font-weight: 600; }
.swatch { display: inline-block; width: .75em; height: .75em; margin-right: .4em; border-radius: .15em; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1rem; }
figure { margin: 0 0 1rem; border: 1px solid var(--line); border-radius: .6rem; overflow: hidden; }
figure img { display: block; width: 100%; height: auto; } .pictures img { max-width: 64rem; margin: 0 auto; }
.pictures figure { background: #fff; } figcaption { padding: .4rem .8rem; color: var(--soft); font-size: .85rem; }
.pictures figcaption { background: var(--panel); border-bottom: 1px solid var(--line); }
.charts figure { margin: 0; padding: .6rem .8rem; align-self: start; } .charts figcaption { padding: 0 0 .3rem; }
summary { cursor: pointer; color: var(--soft); margin: .5rem 0; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .25rem 1.25rem; margin: 0; }
@media (min-width: 60rem) { .many { grid-template-columns: max-content 1fr max-content 1fr; } }
dt { color: var(--soft); overflow-wrap: anywhere; } dd { margin: 0; overflow-wrap: anywhere; }
@media print { body { max-width: none; padding: 0; font-size: 11px; } figure { break-inside: avoid; }
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
<p class="soft">{{ about }}</p>
<p class="soft small">A research tool, not a medical device. This page holds pictures of the scans: pass it on as
carefully as them.</p>
{% for note in notes %}<p class="note">{{ note }}</p>{% endfor %}
<ul class="facts">
{% for fact in facts %}<li{% if fact.tone %} class="{{ fact.tone }}"{% endif %}><b>{{ fact.number }}</b>
{{ fact.text }}</li>{% endfor %}
</ul>

{% if scores %}
<section id="scores">
<h2>Scores</h2>
<div class="wide"><table>
<thead><tr><th scope="col">label</th><th scope="col">Dice</th><th scope="col">HD95, {{ scores.unit }}</th>
<th scope="col">cases</th></tr></thead>
<tbody>
{% for row in scores.rows %}
<tr><td><span class="swatch" style="background:{{ row.color }}"></span>{{ row.name }}</td><td>{{ row.dice }}</td>
<td>{{ row.hd95 }}</td><td>{{ row.cases }}</td></tr>
{% endfor %}
<tr class="mean"><td>mean</td><td>{{ scores.mean.dice }}</td><td>{{ scores.mean.hd95 }}</td><td></td></tr>
</tbody></table></div>
<p class="small soft">{{ scores.about }}</p>
</section>
{% endif %}

<section id="curves">
<h2>Curves</h2>
{% if not charts %}<p>The log holds no step.</p>{% endif %}
<div class="charts">
{% for chart in charts %}
<figure><figcaption>{{ chart.caption }}</figcaption><img src="{{ chart.source }}" alt="{{ chart.caption }}"></figure>
{% endfor %}
</div>
</section>

{% if validations %}
<section id="validations">
<h2>Validations</h2>
<div class="wide long"><table>
<thead><tr><th scope="col">step</th><th scope="col">epoch</th><th scope="col">mean Dice</th>
{% for label in columns %}<th scope="col"><span class="swatch" style="background:{{ label.color }}"></span>{{ label.name
}}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in validations %}
<tr{% if row.best %} class="best"{% endif %}><td>{{ row.step }}{{ " · best" if row.best }}</td><td>{{ row.epoch }}</td>
<td>{{ row.mean }}</td>{% for dice in row.cells %}<td>{{ dice }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
<p class="small soft">Dice from 0 to 1 over the validation cases looked at on the way. They choose the best adapter;
the test cases have no part in it.</p>
</section>
{% endif %}

{% if pictures %}
<section id="pictures">
<h2>Pictures</h2>
<div class="pictures">
{% for picture in pictures %}
{% if not picture.open %}<details><summary>{{ picture.caption }}</summary>{% endif %}
<figure><figcaption>{{ picture.caption }}</figcaption><img src="{{ picture.source }}" alt="{{ picture.caption }}">
</figure>
{% if not picture.open %}</details>{% endif %}
{% endfor %}
</div>
</section>
{% endif %}

<section id="skipped">
<h2>Skipped steps</h2>
{% if not skipped %}<p>None: the loss and the gradient of every step were finite.</p>{% else %}
<p>Their loss or gradient wasn't finite: the weights were left as they were.</p>
<div class="wide long"><table>
<thead><tr><th scope="col">step</th><th scope="col">loss</th><th scope="col">gradient norm</th></tr></thead>
<tbody>
{% for row in skipped %}<tr><td>{{ row.step }}</td><td>{{ row.loss }}</td><td>{{ row.norm }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endif %}
</section>

{% for heading, facts in tables.items() %}
<section>
<h2>{{ heading }}</h2>
<dl{% if facts | length > 12 %} class="many"{% endif %}>
{% for key, value in facts.items() %}<dt>{{ key }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
</section>
{% endfor %}
</body>
</html>
"""
)
"""The page of [`~samed_hf.training.monitoring.report.write_training_report`], which escapes the values."""
