"use strict";
(() => {
  const views = ["--view-1", "--view-2", "--view-3", "--view-4", "--view-5"];
  const asked = new URLSearchParams(location.search);
  const live = !asked.has("until");
  const paused = () => new URLSearchParams(location.search).has("paused");
  let series = null;
  let plots = {};
  let pause = 5000;

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const seconds = (value) => {
    if (value == null) return "–";
    if (value === 0) return "0";
    if (value < 1) return `${Math.round(value * 1000)} ms`;
    if (value < 120) return `${+value.toFixed(1)} s`;
    if (value < 7200) return `${Math.round(value / 60)} min`;
    return `${+(value / 3600).toFixed(1)} h`;
  };
  const amount = (value) => (value == null ? "–" : String(value >= 100 ? Math.round(value) : +value.toPrecision(2)));
  const moment = (at) => new Date(at * 1000).toISOString();
  const span = () => series.until - series.at[0];

  const line = (label, name, more = {}) => ({
    label, stroke: color(name), width: 1.6, spanGaps: false, points: { show: true, size: 2.5, fill: color(name) }, ...more,
  });

  const clock = (u, all) => all.map((at) => {
    if (span() > 3 * 86400) return moment(at).slice(span() > 90 * 86400 ? 0 : 5, 10);
    return span() > 86400 ? moment(at).slice(5, 16).replace("T", " ") : moment(at).slice(11, span() > 900 ? 16 : 19);
  });

  function options(element, lines, format, range, last) {
    const grid = { stroke: color("--line"), width: 1 };
    const axis = { stroke: color("--soft"), grid, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    return {
      width: element.clientWidth, height: last ? 124 : 98, legend: { show: false }, padding: [8, 8, last ? 0 : 4, 0],
      cursor: { sync: { key: "score" }, y: false, drag: { x: false, y: false }, points: { size: 6 } },
      scales: { x: { time: true, range: () => [series.at[0], series.until] }, y: { range } },
      axes: [
        { ...axis, show: true, size: last ? 26 : 0, space: 100, values: last ? clock : (u, all) => all.map(() => "") },
        { ...axis, size: 62, values: (u, all) => all.map(format), space: 34 },
      ],
      series: [{}, ...lines],
    };
  }

  const upTo = (least) => (u, low, high) => [0, Math.max(least, (high || 0) * 1.15)];

  // Each chart: its element, its lines, their values, how a value is written, and the range of its axis.
  function charts() {
    const names = Object.keys(series.freshness);
    const wash = { fill: color("--batch-wash") };
    return [
      ["latency", [line("p50", "--online"), line("p99", "--online-high", { dash: [4, 3] })],
        [series.p50, series.p99], seconds, upTo(0.05)],
      ["answers", [line("online", "--online"), line("batch", "--batch-line", wash), line("failed", "--bad")],
        [series.online, series.batch, series.failed], amount, upTo(0.1)],
      ["engine", [line("online", "--online"), line("batch", "--batch-line", wash)],
        [series.running_online, series.running_batch], amount, upTo(4)],
      ["waiting", [line("rows", "--batch-line", wash)], [series.rows_waiting], amount, upTo(4)],
      ["freshness", names.map((name, i) => line(name, views[i % views.length])),
        names.map((name) => series.freshness[name]), seconds, upTo(1)],
    ];
  }

  function draw() {
    for (const plot of Object.values(plots)) plot.destroy();
    plots = {};
    for (const [id, lines, values, format, range] of charts()) {
      const element = document.getElementById(id);
      plots[id] = new uPlot(options(element, lines, format, range, id === "freshness"), [series.at, ...values], element);
    }
    document.getElementById("views").replaceChildren(...Object.keys(series.freshness).slice(0, 5).flatMap((name, i) => {
      const mark = document.createElement("i");
      mark.className = `view-${(i % views.length) + 1}`;
      return [mark, document.createTextNode(`${name} `)];
    }));
    describe();
  }

  // A chart is told in words by its last values, and whole as a table.
  function describe() {
    const told = document.createElement("table");
    const head = told.createTHead().insertRow(), body = told.createTBody();
    const columns = charts().flatMap(([id, lines, values, format]) => lines.map((one, i) => [`${id} ${one.label}`, values[i], format]));
    for (const text of ["UTC", ...columns.map(([label]) => label)]) {
      head.append(Object.assign(document.createElement("th"), { textContent: text, scope: "col" }));
    }
    for (let number = series.at.length - 1; number >= 0 && body.rows.length < 60; number -= 1) {
      const row = body.insertRow();
      row.insertCell().textContent = moment(series.at[number]).slice(0, 19).replace("T", " ");
      for (const [, values, format] of columns) row.insertCell().textContent = format(values[number]);
    }
    document.getElementById("table").replaceChildren(told);
    for (const [id, lines, values, format] of charts()) {
      const element = document.getElementById(id);
      const last = lines.map((one, i) => `${one.label} ${format(values[i].findLast((value) => value != null))}`);
      element.setAttribute("aria-label", `${element.getAttribute("aria-label").split(";")[0]}; last ${last.join(", ")}`);
    }
  }

  async function refresh() {
    if (series && (document.visibilityState !== "visible" || paused())) return;
    const answer = await fetch(`/dashboard/series?${asked}`);
    if (answer.status === 401) { location.assign("/login"); return; }
    if (!answer.ok) return;
    const before = series ? Object.keys(series.freshness).join() : null;
    series = await answer.json();
    pause = Math.min(Math.max(series.period, 5), 60) * 1000;
    if (before !== Object.keys(series.freshness).join() || !plots.latency) { draw(); return; }
    for (const [id, , values] of charts()) plots[id].setData([series.at, ...values]);
    describe();
  }

  async function follow() {
    await refresh().catch(() => {});
    if (live) setTimeout(follow, pause);
  }

  const redraw = () => { if (series) draw(); };
  let drawn = 0;
  document.addEventListener("antiphon:changed", () => {
    if (live && Date.now() - drawn > pause) { drawn = Date.now(); refresh().catch(() => {}); }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("resize", redraw);
  follow();
})();
