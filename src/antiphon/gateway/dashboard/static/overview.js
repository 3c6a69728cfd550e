"use strict";
(() => {
  const PERIOD = 2000;
  const views = ["--view-1", "--view-2", "--view-3", "--view-4", "--view-5"];
  let span = 300;
  let series = null;
  let plots = {};

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const seconds = (value) => {
    if (value == null) return "–";
    if (value === 0) return "0";
    if (value < 1) return `${Math.round(value * 1000)} ms`;
    if (value < 120) return `${+value.toFixed(1)} s`;
    if (value < 7200) return `${Math.round(value / 60)} min`;
    return `${+(value / 3600).toFixed(1)} h`;
  };
  const share = (value) => (value == null ? "–" : `${Math.round(value * 100)} %`);

  const line = (label, name, more = {}) => ({
    label, stroke: color(name), width: 1.6, spanGaps: false, points: { show: true, size: 2.5, fill: color(name) }, ...more,
  });

  function options(element, lines, format, range, last) {
    const grid = { stroke: color("--line"), width: 1 };
    const clock = (u, all) => all.map((at) => new Date(at * 1000).toISOString().slice(11, span > 900 ? 16 : 19));
    const axis = { stroke: color("--soft"), grid, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    return {
      width: element.clientWidth, height: last ? 124 : 98, legend: { show: false }, padding: [8, 8, last ? 0 : 4, 0],
      cursor: { sync: { key: "score" }, y: false, drag: { x: false, y: false }, points: { size: 6 } },
      scales: { x: { time: true, range: () => window_() }, y: { range } },
      axes: [
        { ...axis, show: true, size: last ? 26 : 0, space: 90, values: last ? clock : (u, all) => all.map(() => "") },
        { ...axis, size: 62, values: (u, all) => all.map(format), space: 34 },
      ],
      series: [{}, ...lines],
    };
  }

  function window_() {
    const at = series && series.at.length ? series.at[series.at.length - 1] : Date.now() / 1000;
    return [at - span, at];
  }

  const upTo = (least) => (u, low, high) => [0, Math.max(least, (high || 0) * 1.15)];

  function draw() {
    for (const plot of Object.values(plots)) plot.destroy();
    plots = {};
    const names = Object.keys(series.freshness);
    const make = (id, lines, values, format, range, last) => {
      const element = document.getElementById(id);
      plots[id] = new uPlot(options(element, lines, format, range, last), [series.at, ...values], element);
    };
    make("latency", [line("p50", "--online"), line("p99", "--online-high", { dash: [4, 3] })],
      [series.p50, series.p99], seconds, upTo(0.05), false);
    make("batch", [line("rows", "--batch-line", { fill: color("--batch-wash") })], [series.batch], share, () => [0, 1.04], false);
    make("engine", [line("online", "--online"), line("batch", "--batch-line", { fill: color("--batch-wash") })],
      [series.running_online, series.running_batch], (value) => (value == null ? "–" : String(value)), upTo(4), false);
    make("freshness", names.map((name, i) => line(name, views[i % views.length])),
      names.map((name) => series.freshness[name]), seconds, upTo(1), true);
    const key = document.getElementById("views");
    key.replaceChildren(...names.slice(0, 5).flatMap((name, i) => {
      const mark = document.createElement("i");
      mark.className = `view-${(i % views.length) + 1}`;
      return [mark, document.createTextNode(`${name} `)];
    }));
    describe();
  }

  function describe() {
    const lastOf = (values) => values[values.length - 1];
    document.getElementById("latency").setAttribute("aria-label",
      `Online latency over time; now p50 ${seconds(lastOf(series.p50))}, p99 ${seconds(lastOf(series.p99))}`);
    document.getElementById("batch").setAttribute("aria-label", `Batch progress over time; now ${share(lastOf(series.batch))}`);
    document.getElementById("engine").setAttribute("aria-label",
      `Sequences in the engine over time; now ${lastOf(series.running_online) ?? "none"} online, ${lastOf(series.running_batch) ?? "none"} batch`);
    document.getElementById("freshness").setAttribute("aria-label", "Age over time; now " +
      Object.entries(series.freshness).map(([name, ages]) => `${name} ${seconds(lastOf(ages))}`).join(", "));
  }

  async function refresh() {
    if (document.visibilityState !== "visible" && series) return;
    const answer = await fetch("/dashboard/series");
    if (answer.status === 401) { location.assign("/login"); return; }
    if (!answer.ok) return;
    const before = series ? Object.keys(series.freshness).join() : null;
    series = await answer.json();
    if (before !== Object.keys(series.freshness).join() || !plots.latency) { draw(); return; }
    plots.latency.setData([series.at, series.p50, series.p99]);
    plots.batch.setData([series.at, series.batch]);
    plots.engine.setData([series.at, series.running_online, series.running_batch]);
    plots.freshness.setData([series.at, ...Object.values(series.freshness)]);
    describe();
  }

  const soon = () => { if (series) draw(); };
  const attempt = () => refresh().catch(() => {});

  for (const button of document.querySelectorAll("[data-span]")) {
    button.addEventListener("click", () => {
      span = Number(button.dataset.span);
      for (const other of document.querySelectorAll("[data-span]")) other.setAttribute("aria-pressed", String(other === button));
      soon();
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", soon);
  addEventListener("resize", soon);
  attempt();
  setInterval(attempt, PERIOD);
})();
