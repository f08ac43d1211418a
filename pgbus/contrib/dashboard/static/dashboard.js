// Draws the charts and the map from the data in the page, shows instants in the viewer's zone (UTC in the tooltip), and
// says whether the page is live.
"use strict";
(() => {
  const root = document.documentElement;
  const style = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const charts = new WeakMap();

  // ------------------------------------------------------------------------------------------------------------ charts

  function drawChart(place) {
    const data = JSON.parse(place.dataset.chart);
    const values = [data.x, ...data.series.map((one) => one.y)];
    const drawn = charts.get(place);
    if (drawn) return drawn.setData(values);
    const axis = { stroke: style("--pico-muted-color"), grid: { stroke: style("--line"), width: 1 }, ticks: { stroke: style("--line") } };
    const number = (value) => value.toLocaleString(undefined, { maximumSignificantDigits: 3 });
    const series = data.series.map((one) => ({
      label: one.label, stroke: style(`--${one.colour}`), width: 2, spanGaps: false,
      points: { show: true, size: 3, fill: style(`--${one.colour}`), filter: alone },
      value: (_, value) => (value === null || value === undefined ? "-" : `${number(value)}${data.unit}`),
    }));
    place.replaceChildren();
    charts.set(place, new uPlot(
      { width: place.clientWidth, height: 180, series: [{ label: "time", value: "{HH}:{mm}:{ss}" }, ...series],
        axes: [{ ...axis, values: (_, ticks) => ticks.map(clock) }, { ...axis, size: 68, values: (_, ticks) => ticks.map((tick) => `${number(tick)}${data.unit}`) }],
        scales: { y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } }, cursor: { drag: { x: false, y: false } } },
      values, place));
  }

  // The points that have no neighbour, which no line shows.
  function alone(plot, index) {
    const y = plot.data[index];
    return y.flatMap((value, i) => (value !== null && (y[i - 1] ?? null) === null && (y[i + 1] ?? null) === null ? [i] : []));
  }

  const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

  // --------------------------------------------------------------------------------------------------------------- map

  const SVG = "http://www.w3.org/2000/svg";
  function make(kind, attributes, parent) {
    const made = document.createElementNS(SVG, kind);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    parent.append(made);
    return made;
  }

  const SHOWN = 28; // letters of a name
  const short = (text) => (text.length > SHOWN ? `${text.slice(0, SHOWN - 1)}\u2026` : text);
  const tone = (lag) => (lag >= 3 ? "bad" : lag >= 2 ? "some" : "good");

  function layOut(nodes, edges) {
    const graph = new dagre.graphlib.Graph();
    graph.setGraph({ rankdir: "LR", nodesep: 14, ranksep: 110, marginx: 8, marginy: 8 });
    graph.setDefaultEdgeLabel(() => ({}));
    for (const [name, node] of Object.entries(nodes)) graph.setNode(name, { width: 24 + 7.4 * short(node.label).length, height: 30 });
    for (const edge of edges) graph.setEdge(edge.from, edge.to);
    // A topic that nobody publishes stands below the others.
    for (const [name, node] of Object.entries(nodes)) {
      if (node.kind !== "topic" || graph.predecessors(name).length > 0) continue;
      graph.setNode(`nobody ${name}`, { width: 1, height: 1 });
      graph.setEdge(`nobody ${name}`, name);
    }
    dagre.layout(graph);
    return graph;
  }

  // From the side of one node to the side of another, leaving and arriving level.
  function curve(from, to) {
    const x1 = from.x + from.width / 2, x2 = to.x - to.width / 2, bend = Math.max(30, (x2 - x1) / 2);
    return `M${x1},${from.y} C${x1 + bend},${from.y} ${x2 - bend},${to.y} ${x2},${to.y}`;
  }

  function drawMap(place) {
    const { nodes, edges } = JSON.parse(place.dataset.map);
    const graph = layOut(nodes, edges);
    const { width, height } = graph.graph();
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    const most = Math.max(...edges.map((edge) => edge.rate), 1e-9);
    for (const edge of edges) {
      const kind = edge.events === 0 ? "quiet" : tone(edge.lag);
      const drawn = make("path", { class: `edge ${kind}`, d: curve(graph.node(edge.from), graph.node(edge.to)),
        "stroke-width": edge.events === 0 ? 1.5 : (1.5 + 5 * Math.sqrt(edge.rate / most)).toFixed(1) }, svg);
      make("title", {}, drawn).textContent = edge.events === 0 ? "declared, not seen lately" : `${edge.rate.toLocaleString()} events per second`;
    }
    for (const [name, node] of Object.entries(nodes)) {
      const at = graph.node(name);
      const link = make("a", { href: `${place.dataset.root}/${node.href.split("=").map((part, i) => (i ? encodeURIComponent(part) : encodeURI(part))).join("=")}` }, svg);
      link.setAttribute("aria-label", `${node.kind} ${node.label}`);
      const group = make("g", { class: `node ${node.kind} ${tone(node.lag ?? 0)}`, transform: `translate(${at.x - at.width / 2},${at.y - 15})` }, link);
      make("rect", { width: at.width, height: 30, rx: 5 }, group);
      make("text", { x: at.width / 2, y: 20, "text-anchor": "middle" }, group).textContent = short(node.label);
      make("title", {}, group).textContent = node.label;
    }
    place.replaceChildren(svg);
  }

  // ------------------------------------------------------------------------------------------------------------- times

  const TIME = { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hourCycle: "h23" };
  const DATE = { year: "numeric", month: "2-digit", day: "2-digit" };
  function showTime(place) {
    const instant = new Date(place.dateTime);
    const today = instant.toDateString() === new Date().toDateString();
    place.textContent = today ? instant.toLocaleTimeString(undefined, TIME) : instant.toLocaleString(undefined, { ...DATE, ...TIME });
  }

  // -------------------------------------------------------------------------------------------------------------- page

  // Draw what was not drawn yet, or has changed since.
  function draw() {
    for (const [selector, value, drawer] of [
      ["[data-chart]", (place) => place.dataset.chart, drawChart],
      ["[data-map]", (place) => place.dataset.map, drawMap],
      ["time[datetime]", (place) => place.dateTime, showTime],
    ]) document.querySelectorAll(selector).forEach((place) => {
      if (place.drawn === value(place)) return;
      place.drawn = value(place);
      drawer(place);
    });
  }

  // Colours are read when a chart is made, and its width is its place's.
  function redraw() {
    document.querySelectorAll("[data-chart]").forEach((place) => {
      charts.get(place)?.destroy();
      charts.delete(place);
      place.drawn = undefined;
    });
    draw();
  }

  const stream = document.getElementById("stream");
  function tell(state, text) {
    stream.hidden = false;
    if (stream.dataset.state !== state) [stream.dataset.state, stream.textContent] = [state, text];
  }
  document.addEventListener("htmx:sse:after:connection", () => tell("live", "live"));
  // The extension closes the stream in the background, and opens it again.
  document.addEventListener("visibilitychange", () => { if (document.hidden && !stream.hidden) tell("waiting", "paused"); });
  document.addEventListener("htmx:sse:error", () => tell("waiting", "not live"));
  document.addEventListener("htmx:sse:after:message", draw);
  document.addEventListener("htmx:after:swap", draw);
  document.getElementById("zone").textContent = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(redraw.timer);
    redraw.timer = setTimeout(redraw, 150);
  });
  draw();
})();
