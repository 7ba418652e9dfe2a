// Draws the steps of a run on two canvases and lets the reader zoom into them.
//
// Stands in report.html, beside its data: buckets of steps in order of time, as Timeline.to_json
// has them.  Invariant: what is drawn is within [view.from, view.to], and that within the run.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const steps = document.getElementById("steps");
  if (!steps) return; // nothing was measured
  const overview = document.getElementById("overview");
  const readout = document.getElementById("readout");
  const last = data.counts.length - 1;
  const origin = data.started_ns[0];
  const start = data.started_ns.map((t) => t - origin);
  const end = data.ended_ns.map((t) => t - origin);
  const length = Math.max(end[last], 1);
  const firstStep = [];
  data.counts.reduce((sum, count) => (firstStep.push(sum), sum + count), 0);
  const view = { from: 0, to: length };
  const LABEL = 62; // pixels at the left for the scale
  const AXIS = 20; // pixels at the bottom for the time
  const GAP = 14; // pixels between the lanes
  const MIN_VIEW = 1e3; // ns

  // ---- numbers ------------------------------------------------------------------------

  function inTime(ns) {
    const [scale, unit] = ns < 999.5e3 ? [1e3, "µs"] : ns < 999.5e6 ? [1e6, "ms"] : [1e9, "s"];
    const value = ns / scale;
    return value.toFixed(value >= 99.95 || value === 0 ? 0 : value >= 9.995 ? 1 : 2) + " " + unit;
  }

  function words(name) {
    return { h2d: "copy to the GPU", gpu_decode: "GPU decode", other_host: "other host" }[name]
      || name;
  }

  /** The bucket at a time, or the last one that began before it. */
  function bucketAt(time) {
    let low = 0, high = last;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (start[middle] <= time) low = middle; else high = middle - 1;
    }
    return low;
  }

  /** Per column of pixels what its buckets add up to. */
  function columns(from, to, width) {
    const zeros = () => new Float64Array(width);
    const result = { count: zeros(), low: zeros().fill(Infinity), high: zeros(), time: zeros(),
      idle: data.causes.map(zeros) };
    const scale = width / (to - from);
    for (let b = bucketAt(from); b <= last && start[b] < to; b++) {
      const left = Math.max(Math.floor((start[b] - from) * scale), 0);
      const right = Math.min(Math.max(Math.ceil((end[b] - from) * scale) - 1, left), width - 1);
      for (let c = left; c <= right; c++) {
        result.count[c] += data.counts[b];
        result.time[c] += data.sums[0][b];
        result.low[c] = Math.min(result.low[c], data.lowest[0][b]);
        result.high[c] = Math.max(result.high[c], data.highest[0][b]);
        for (let k = 0; k < data.causes.length; k++) result.idle[k][c] += data.sums[k + 1][b];
      }
    }
    return result;
  }

  // ---- drawing ------------------------------------------------------------------------

  /** Its pen, and the pixels that it has, at least one beside the scale: a hidden page has none. */
  function prepared(canvas) {
    const box = canvas.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(Math.round(box.width * ratio), 1);
    canvas.height = Math.max(Math.round(box.height * ratio), 1);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    return [pen, Math.max(Math.floor(box.width), LABEL + 1), box.height];
  }

  function color(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function drawIdle(pen, sums, left, top, height) {
    pen.fillStyle = color("--busy");
    for (let c = 0; c < sums.count.length; c++) {
      if (sums.count[c]) pen.fillRect(left + c, top, 1, height);
    }
    const base = new Float64Array(sums.count.length);
    data.causes.forEach((name, k) => {
      pen.fillStyle = data.colors[name] || color("--soft");
      for (let c = 0; c < base.length; c++) {
        if (!sums.idle[k][c] || !sums.time[c]) continue;
        const part = Math.min((height * sums.idle[k][c]) / sums.time[c], height - base[c]);
        pen.fillRect(left + c, top + height - base[c] - part, 1, part);
        base[c] += part;
      }
    });
  }

  function drawTimes(pen, sums, left, top, height, highest) {
    const y = (ns) => top + height * (1 - ns / highest);
    const band = color("--band"), beyond = color("--over");
    for (let c = 0; c < sums.count.length; c++) {
      if (!sums.count[c]) continue;
      const over = sums.high[c] > highest, upper = over ? top : y(sums.high[c]);
      pen.fillStyle = band;
      pen.fillRect(left + c, upper, 1, Math.max(y(sums.low[c]) - upper, 1));
      pen.fillStyle = beyond;
      if (over) pen.fillRect(left + c - 0.5, top, 2, 7);
    }
    pen.strokeStyle = color("--accent");
    pen.lineWidth = 1.25;
    pen.beginPath();
    for (let c = 0, down = false; c < sums.count.length; c++) {
      if (!sums.count[c]) { down = false; continue; }
      const mean = Math.max(y(sums.time[c] / sums.count[c]), top);
      if (!down) pen.moveTo(left + c, mean);
      pen.lineTo(left + c + 1, mean);
      down = true;
    }
    pen.stroke();
  }

  /** 1, 2 or 5 times a power of ten, so that about `wanted` ticks lie within `span`. */
  function tickStep(span, wanted) {
    const rough = span / wanted, power = 10 ** Math.floor(Math.log10(rough));
    return power * ([1, 2, 5].find((n) => n * power >= rough) || 10);
  }

  function drawAxis(pen, left, width, height) {
    const step = tickStep(view.to - view.from, Math.max(width / 130, 2));
    pen.fillStyle = color("--soft");
    pen.textBaseline = "bottom";
    for (let t = Math.ceil(view.from / step) * step; t <= view.to; t += step) {
      const x = left + (width * (t - view.from)) / (view.to - view.from);
      pen.fillRect(x, height - AXIS, 1, 4);
      pen.textAlign = x < left + 24 ? "left" : x > left + width - 24 ? "right" : "center";
      const digits = Math.max(0, -Math.floor(Math.log10(step / 1e9)));
      pen.fillText((t / 1e9).toFixed(Math.min(digits, 9)) + " s", x, height - 1);
    }
  }

  function drawScale(pen, left, top, height, text, middle) {
    pen.fillStyle = color("--soft");
    pen.textAlign = "right";
    pen.textBaseline = "top";
    pen.fillText(text, left - 6, top);
    pen.textBaseline = "middle";
    if (height > 70) pen.fillText(middle, left - 6, top + height / 2);
    pen.textBaseline = "bottom";
    pen.fillText("0", left - 6, top + height);
    pen.fillStyle = color("--line");
    for (const y of [top, top + height / 2, top + height]) pen.fillRect(left, y, 1e4, 1);
  }

  function draw() {
    const [pen, width, height] = prepared(steps);
    pen.font = "12px system-ui, sans-serif";
    const wide = width - LABEL, tall = (height - AXIS - GAP - 4) / 2;
    const sums = columns(view.from, view.to, wide);
    const longest = sums.high.reduce((a, b) => Math.max(a, b), 1);
    // One step in a thousand may leave the scale: it would press all others flat.
    const highest = Math.min(longest, 2e6 * data.step_ms[4] || longest) * 1.04;
    drawScale(pen, LABEL, 2, tall, inTime(highest), inTime(highest / 2));
    drawTimes(pen, sums, LABEL, 2, tall, highest);
    drawIdle(pen, sums, LABEL, tall + GAP, tall);
    drawScale(pen, LABEL, tall + GAP, tall, "100 %", "50 %");
    drawAxis(pen, LABEL, wide, height);
    drawOverview();
    steps.dataset.from = view.from;
    steps.dataset.to = view.to;
    steps.dataset.longest = longest;
  }

  function drawOverview() {
    const [pen, width, height] = prepared(overview);
    drawIdle(pen, columns(0, length, width - LABEL), LABEL, 0, height);
    const x = (time) => LABEL + ((width - LABEL) * time) / length;
    pen.fillStyle = color("--veil");
    pen.fillRect(LABEL, 0, x(view.from) - LABEL, height);
    pen.fillRect(x(view.to), 0, width - x(view.to), height);
    pen.strokeStyle = color("--ink");
    pen.strokeRect(x(view.from) + 0.5, 0.5, Math.max(x(view.to) - x(view.from) - 1, 2), height - 1);
  }

  let pending = false;
  function redraw() {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => { pending = false; draw(); });
  }

  // ---- moving -------------------------------------------------------------------------

  function show(from, to) {
    const span = Math.min(Math.max(to - from, Math.min(MIN_VIEW, length)), length);
    view.from = Math.min(Math.max(from, 0), length - span);
    view.to = view.from + span;
    redraw();
  }

  function zoom(factor, place = 0.5) {
    const span = (view.to - view.from) * factor, fixed = view.from + place * (view.to - view.from);
    show(fixed - place * span, fixed + (1 - place) * span);
  }

  function move(share) {
    const by = share * (view.to - view.from);
    show(view.from + by, view.to + by);
  }

  /** 0 at the left end of the drawn time, 1 at the right. */
  function placeOf(event, canvas) {
    const box = canvas.getBoundingClientRect();
    return Math.min(Math.max((event.clientX - box.left - LABEL) / (box.width - LABEL), 0), 1);
  }

  function tell(time) {
    const b = bucketAt(time), count = data.counts[b], many = count > 1;
    const name = document.createElement("b");
    const step = firstStep[b].toLocaleString("en");
    name.textContent = many
      ? `steps ${step} to ${(firstStep[b] + count - 1).toLocaleString("en")}` : `step ${step}`;
    const mean = inTime(data.sums[0][b] / count);
    const range = many
      ? ` (${inTime(data.lowest[0][b])} to ${inTime(data.highest[0][b])})` : "";
    const idle = data.causes
      .map((cause, k) => [words(cause), data.sums[k + 1][b] / count])
      .filter(([, ns]) => ns > 0).sort((a, b) => b[1] - a[1])
      .map(([cause, ns]) => `${cause} ${inTime(ns)}`).join(", ");
    readout.replaceChildren(name,
      ` at ${(start[b] / 1e9).toFixed(3)} s: ${mean}${range}; idle: ${idle || "none"}`);
  }

  // ---- hands --------------------------------------------------------------------------

  const pointers = new Map();
  steps.addEventListener("pointerdown", (event) => {
    steps.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, placeOf(event, steps));
  });
  steps.addEventListener("pointermove", (event) => {
    const place = placeOf(event, steps);
    tell(view.from + place * (view.to - view.from));
    if (!pointers.has(event.pointerId)) return;
    const before = [...pointers.values()];
    pointers.set(event.pointerId, place);
    const now = [...pointers.values()];
    if (now.length === 1) move(before[0] - now[0]);
    else {
      const apart = Math.abs(now[0] - now[1]);
      if (apart > 0.01) zoom(Math.abs(before[0] - before[1]) / apart, (now[0] + now[1]) / 2);
    }
  });
  for (const name of ["pointerup", "pointercancel"]) {
    steps.addEventListener(name, (event) => pointers.delete(event.pointerId));
  }
  steps.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) move(event.deltaX / 1000);
    else zoom(Math.exp(event.deltaY / 400), placeOf(event, steps));
  }, { passive: false });
  steps.addEventListener("keydown", (event) => {
    const keys = { ArrowLeft: () => move(-0.1), ArrowRight: () => move(0.1),
      "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), 0: () => show(0, length) };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  for (const name of ["pointerdown", "pointermove"]) {
    overview.addEventListener(name, (event) => {
      if (!event.buttons) return;
      const half = (view.to - view.from) / 2, time = placeOf(event, overview) * length;
      show(time - half, time + half);
    });
  }
  const on = (id, action) => document.getElementById(id).addEventListener("click", action);
  on("in", () => zoom(0.5));
  on("out", () => zoom(2));
  on("all", () => show(0, length));
  on("end", () => {
    let first = last; // of those kept one by one
    while (first > 0 && data.counts[first - 1] === 1) first--;
    show(start[first], length);
  });
  window.addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  draw();
  tell(0);
})();
