// Charts over time by uPlot in place of the plain pictures: a cursor over all of them, zoom, and values in words.
// The numbers are in #chart-data, as llmbatch/report/html/chart_data.py writes them; a live page hands in newer ones.
"use strict";
const llmbatchCharts = (() => {
  const GUTTER = 68;
  const HEIGHT = 104;
  const BAND_HEIGHT = 26;
  const GAP_SHARE = 0.03;
  const STEPS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

  let data = null; // what the server sent, joined
  let axis = null; // instants to places and back
  let shared = null; // the places and values that all charts show
  let charts = []; // {plot, spec, values, labels}
  let zoomed = null; // [from, to] as instants, or null for the whole time
  let chosen = null; // the index that the cursor is at
  let isFollowing = true; // the cursor stays at the newest value until somebody moves it
  let isSettingScale = false;
  const root = document.getElementById("charts");

  function element(name, attributes, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function color(kind) {
    const probe = element("span", { class: kind });
    root.append(probe);
    const found = getComputedStyle(probe).getPropertyValue("--c").trim();
    probe.remove();
    return found || "#888";
  }

  function variable(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  // Numbers and times in words, as llmbatch/report/html/text.py and words.py have them.

  const grouped = (value, decimals) =>
    value.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });

  const precise = (value) => String(Number(value.toPrecision(3)));

  function number(value) {
    for (const [size, sign] of [[1e12, "T"], [1e9, "G"], [1e6, "M"]]) {
      if (value >= size) return precise(value / size) + sign;
    }
    if (value >= 1000) return grouped(value, 0);
    if (Number.isInteger(value)) return String(value);
    return value >= 10 ? value.toFixed(1) : precise(value);
  }

  function duration(seconds) {
    const two = (value) => String(value).padStart(2, "0");
    if (seconds < 9.95) return (seconds < 1 ? precise(seconds) : seconds.toFixed(1)) + " s";
    const whole = Math.round(seconds);
    if (whole < 60) return `${whole} s`;
    if (whole < 3600) return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
    if (whole < 86400) return `${Math.floor(whole / 3600)}h${two(Math.floor((whole % 3600) / 60))}m`;
    return `${Math.floor(whole / 86400)}d${two(Math.floor((whole % 86400) / 3600))}h`;
  }

  function usd(value) {
    if (value === 0 || value >= 0.1) return `US$ ${grouped(value, 2)}`;
    return `US$ ${value.toFixed(Math.max(2, 1 - Math.floor(Math.log10(value))))}`;
  }

  const SAY = { number, duration, usd };

  function ahead(instant) {
    let found = data.offsets[0][1];
    for (const [since, seconds] of data.offsets) if (instant >= since) found = seconds;
    return found;
  }

  function timeText(instant, hasDay, hasSeconds) {
    const text = new Date((instant + ahead(instant)) * 1000).toISOString();
    const clock = text.slice(11, hasSeconds ? 19 : 16);
    return hasDay ? `${text.slice(5, 10)} ${clock}` : clock;
  }

  // The axis: times of work side by side, long waits between them cut short.

  function makeAxis(spans) {
    const worked = spans.reduce((sum, [begin, end]) => sum + end - begin, 0);
    const share = Math.min(GAP_SHARE, 0.3 / Math.max(1, spans.length - 1));
    const gap = (worked * share) / (1 - share * (spans.length - 1));
    const placed = [];
    let left = 0;
    for (const [begin, end] of spans) {
      if (placed.length) left += gap;
      placed.push([begin, end, left]);
      left += end - begin;
    }
    return {
      placed,
      end: left,
      place(instant) {
        let before = 0;
        for (const [begin, end, at] of placed) {
          if (instant < begin) return before;
          if (instant <= end) return at + instant - begin;
          before = at + end - begin;
        }
        return before;
      },
      instant(place) {
        let found = placed[0][0];
        for (const [begin, end, at] of placed) {
          if (place < at) break;
          found = Math.min(end, begin + place - at);
        }
        return found;
      },
    };
  }

  function compute() {
    axis = makeAxis(data.spans);
    const at = Object.fromEntries(data.members.map((name, position) => [name, position]));
    const places = [];
    const rows = []; // the bucket of each place, or null in a gap
    let last = null;
    for (const row of data.buckets) {
      const begin = row[at.start];
      if (last !== null && axis.place(begin) - axis.place(last) > 1e-6 && begin - last > 1.5) {
        const cut = axis.placed.some(([spanBegin]) => spanBegin > last - 1 && spanBegin <= begin + 1);
        if (cut) {
          places.push(axis.place(last));
          rows.push(null);
        }
      }
      const place = axis.place(begin);
      if (places.length && place <= places[places.length - 1]) places[places.length - 1] = place - 1e-4;
      places.push(place);
      rows.push(row);
      last = Math.max(last === null ? -Infinity : last, begin + row[at.width]);
    }
    for (let n = places.length - 2; n >= 0; n--) if (places[n] >= places[n + 1]) places[n] = places[n + 1] - 1e-4;
    places.push(Math.max(axis.end, places[places.length - 1] + 1e-4));
    rows.push(rows[rows.length - 1]);
    shared = { places, rows, at, last: rows.length - 1 };
  }

  function seriesValues(spec) {
    const { rows, at, last } = shared;
    const member = at[spec.member];
    let total = 0;
    let seen = false;
    const values = rows.map((row, n) => {
      if (row === null) return spec.measure === "total" ? total : null;
      const value = row[member] || 0;
      seen = seen || value > 0;
      switch (spec.measure) {
        case "rate":
          return (value / row[at.width]) * spec.times;
        case "highest":
          return value;
        case "known":
          return value || null;
        case "latency":
          return row[at.good_calls] > 0 ? value : null;
        default:
          if (n !== last) total += value;
          return total;
      }
    });
    return spec.optional && !seen ? null : values;
  }

  function ticks(from, to, width) {
    const begin = axis.instant(from);
    const shown = Math.max(to - from, 1e-6);
    const most = Math.max(2, Math.floor(width / 78));
    let step = STEPS_S.find((one) => shown / one <= most);
    if (!step) step = 86400 * Math.ceil(shown / (86400 * most));
    const found = [];
    for (const [spanBegin, spanEnd, left] of axis.placed) {
      const shift = ahead(spanBegin);
      const first = Math.max(spanBegin, begin);
      for (let at = Math.ceil((first + shift) / step) * step - shift; at <= spanEnd; at += step) {
        const place = left + at - spanBegin;
        if (place < from) continue;
        if (place > to) break;
        if (!found.length || place - found[found.length - 1] >= (0.8 * shown) / most) found.push(place);
      }
    }
    return { places: found, step };
  }

  // Drawing.

  function shade(plot) {
    const { ctx } = plot;
    const { left, top, width, height } = plot.bbox;
    const fill = (from, to, style) => {
      const a = Math.max(left, plot.valToPos(from, "x", true));
      const b = Math.min(left + width, Math.max(plot.valToPos(to, "x", true), a + 1));
      if (b > a) {
        ctx.fillStyle = style;
        ctx.fillRect(a, top, b - a, height);
      }
    };
    ctx.save();
    for (let n = 1; n < axis.placed.length; n++) {
      const [begin, end, at] = axis.placed[n - 1];
      fill(at + end - begin, axis.placed[n][2], variable("--gap"));
    }
    for (const [begin, end, , kind] of data.shades) fill(axis.place(begin), axis.place(end), variable(`--${kind}`));
    ctx.restore();
  }

  function band(plot) {
    const { ctx } = plot;
    const { left, top, width, height } = plot.bbox;
    const { places, rows, at } = shared;
    const colors = [color("closed"), color("open")];
    ctx.save();
    const state = (n) => (rows[n] === null ? -1 : Number(rows[n][at.open_circuits] > 0));
    for (let n = 0; n < places.length - 1; ) {
      const first = n;
      while (n < places.length - 1 && state(n) === state(first)) n++;
      const a = Math.max(left, plot.valToPos(places[first], "x", true));
      const b = Math.min(left + width, plot.valToPos(places[n], "x", true));
      if (b <= a || state(first) < 0) continue;
      ctx.globalAlpha = state(first) ? 1 : 0.6;
      ctx.fillStyle = colors[state(first)];
      ctx.fillRect(a, top, b - a, height);
    }
    ctx.restore();
  }

  function axes(say, hasLabels) {
    const text = variable("--dim");
    const grid = { stroke: variable("--line"), width: 1 };
    const font = "11px system-ui, sans-serif";
    return [
      {
        stroke: text,
        font,
        grid,
        ticks: { show: false },
        size: hasLabels ? 22 : 4,
        gap: 4,
        splits: (plot, _axis, from, to) => ticks(from, to, plot.bbox.width / devicePixelRatio).places,
        values: (plot, splits) => {
          if (!hasLabels) return splits.map(() => "");
          const { min, max } = plot.scales.x;
          const { step } = ticks(min, max, plot.bbox.width / devicePixelRatio);
          const hasDay = axis.instant(max) - axis.instant(min) >= 86400;
          const half = ((hasDay ? 26 : 18) * (max - min) * devicePixelRatio) / plot.bbox.width;
          // A label that the right edge would cut is left out.
          return splits.map((place) => (place + half > max ? "" : timeText(axis.instant(place), hasDay, step < 60)));
        },
      },
      {
        stroke: text,
        font,
        grid,
        ticks: { show: false },
        size: GUTTER,
        gap: 4,
        space: 34,
        values: (_plot, splits) => splits.map((value) => (say && value !== null ? say(value) : "")),
      },
    ];
  }

  function translucent(hex) {
    return /^#[0-9a-f]{6}$/i.test(hex) ? `${hex}77` : hex;
  }

  function plotOptions(spec, drawn, width, hasLabels) {
    const say = spec && SAY[spec.say];
    const series = drawn.map(({ one }) => {
      const stroke = color(one.kind);
      return {
        label: one.name,
        stroke,
        width: 1.5,
        fill: one.shape === "area" ? translucent(stroke) : undefined,
        dash: one.kind === "limit" || one.kind === "p95" ? [5, 3] : undefined,
        paths: uPlot.paths.stepped({ align: 1 }),
        points: { show: false },
      };
    });
    return {
      width,
      height: (spec ? HEIGHT : BAND_HEIGHT) + (hasLabels ? 18 : 0),
      padding: [spec ? 8 : 2, 8, 0, 0],
      legend: { show: false },
      cursor: {
        sync: { key: "llmbatch" },
        drag: { x: true, y: false, setScale: true },
        points: { size: 6 },
        y: false,
      },
      scales: { x: { time: false }, y: { range: (_plot, _low, high) => [0, (high > 0 ? high : 1) * 1.05] } },
      axes: axes(say, hasLabels),
      series: [{}, ...(spec ? series : [{ show: true, stroke: "transparent", points: { show: false } }])],
      hooks: {
        drawClear: [shade],
        draw: spec ? [] : [band],
        setCursor: [(plot) => plot.cursor.idx !== null && plot.cursor.event && choose(plot.cursor.idx, true)],
        setScale: [(plot, key) => key === "x" && scaleChanged(plot)],
      },
    };
  }

  function build() {
    const width = root.clientWidth;
    charts.forEach(({ plot }) => plot.destroy());
    charts = [];
    const figures = [];
    const specs = [data.panels[0], null, ...data.panels.slice(1)];
    const shown = specs
      .map((spec) => ({
        spec,
        drawn: spec
          ? spec.series.map((one) => ({ one, values: seriesValues(one) })).filter(({ values }) => values !== null)
          : [],
      }))
      .filter(({ spec, drawn }) => spec === null || drawn.length);
    shown.forEach(({ spec, drawn }, position) => {
      const keys = element("span", { class: "keys" });
      const labels = drawn.map(({ one }) => {
        const value = element("span", { class: "value" });
        keys.append(
          element("span", { class: `key ${one.kind}` }, element("i", { "aria-hidden": "true" }), one.name, value),
        );
        return value;
      });
      if (spec === null) {
        for (const [kind, words] of [["closed", "closed"], ["open", "open or probing"]]) {
          keys.append(element("span", { class: `key ${kind}` }, element("i", { "aria-hidden": "true" }), words));
        }
      }
      const title = spec ? spec.title : "Circuit";
      const unit = element("span", { class: "unit" }, spec ? ` ${spec.unit} ` : "");
      const place = element("div", { class: "live-plot", role: "img", "aria-label": describe(spec, drawn) });
      const caption = element("figcaption", {}, element("b", {}, title), unit, keys);
      const figure = element("figure", {}, caption, place);
      figures.push({ figure, place, spec, drawn, labels, hasLabels: position === shown.length - 1 });
    });
    plots.replaceChildren(...figures.map(({ figure }) => figure));
    for (const { place, spec, drawn, labels, hasLabels } of figures) {
      const options = plotOptions(spec, drawn, width, hasLabels);
      const values = spec ? drawn.map((one) => one.values) : [shared.places.map(() => 0)];
      charts.push({ plot: new uPlot(options, [shared.places, ...values], place), spec, drawn, labels, place });
    }
    applyZoom();
  }

  function describe(spec, drawn) {
    const { rows, places, at } = shared;
    if (spec === null) {
      let open = 0;
      for (let n = 0; n < places.length - 1; n++) {
        if (rows[n] !== null && rows[n][at.open_circuits] > 0) open += places[n + 1] - places[n];
      }
      return open ? `Circuit over time: not closed for about ${duration(open)}` : "Circuit over time: closed all the time";
    }
    const said = drawn.map(({ one, values }) => {
      let best = -1;
      values.forEach((value, n) => {
        if (value !== null && (best < 0 || value > values[best])) best = n;
      });
      if (best < 0) return `${one.name}: no value`;
      const when = values[best] ? ` at ${timeText(axis.instant(places[best]), false, true)}` : "";
      return `${one.name}: highest ${SAY[spec.say](values[best])}${when}`;
    });
    return `${spec.title} over time (${spec.unit}). ${said.join("; ")}`;
  }

  // The cursor and the zoom.

  const slider = element("input", { type: "range", min: "0", max: "1", step: "1", "aria-label": "Time", id: "cursor" });
  const readout = element("span", { id: "readout" });
  const buttons = {
    "Zoom in": () => zoomBy(0.5),
    "Zoom out": () => zoomBy(2),
    Earlier: () => moveBy(-0.5),
    Later: () => moveBy(0.5),
    "All of it": () => zoomTo(null),
  };
  const controls = element("div", { class: "controls", role: "group", "aria-label": "Time shown" });
  for (const [name, action] of Object.entries(buttons)) {
    const button = element("button", { type: "button" }, name);
    button.addEventListener("click", action);
    controls.append(button);
  }
  const plots = element("div", { class: "plots" });

  function choose(index, isAsked) {
    chosen = Math.max(0, Math.min(shared.last, index));
    if (isAsked) isFollowing = chosen === shared.last;
    const { rows, places } = shared;
    const instant = axis.instant(places[chosen]);
    const hasDay = axis.placed[axis.placed.length - 1][1] - axis.placed[0][0] >= 86400;
    const when = timeText(instant, hasDay, true);
    const said = [];
    for (const { spec, drawn, labels } of charts) {
      drawn.forEach(({ one, values }, n) => {
        const value = values[chosen];
        const text = value === null || value === undefined ? "" : SAY[spec.say](value);
        labels[n].textContent = text;
        if (text) said.push(`${one.name} ${text}`);
      });
    }
    const within = data.shades
      .filter(([begin, end]) => instant >= begin && instant < Math.max(end, begin + 1))
      .map(([, , words]) => words);
    if (rows[chosen] === null) said.unshift("no run");
    said.unshift(...within);
    readout.textContent = within.length ? `${when}: ${within.join(", ")}` : when;
    slider.value = String(chosen);
    slider.setAttribute("aria-valuetext", `${when}: ${said.join(", ")}`);
  }

  slider.addEventListener("input", () => {
    choose(Number(slider.value), true);
    for (const { plot } of charts) {
      const left = plot.valToPos(shared.places[chosen], "x");
      plot.setCursor({ left, top: 0 }, false);
    }
  });

  function range() {
    const { places } = shared;
    return zoomed === null ? [places[0], places[places.length - 1]] : zoomed.map((instant) => axis.place(instant));
  }

  function applyZoom() {
    const [min, max] = range();
    isSettingScale = true;
    for (const { plot } of charts) plot.setScale("x", { min, max: Math.max(max, min + 1e-3) });
    isSettingScale = false;
  }

  function scaleChanged(plot) {
    if (isSettingScale || plot.scales.x.min === null || !charts.length) return;
    const { places } = shared;
    const { min, max } = plot.scales.x;
    const isWhole = min <= places[0] + 1e-3 && max >= places[places.length - 1] - 1e-3;
    zoomed = isWhole ? null : [axis.instant(min), axis.instant(max)];
  }

  function zoomTo(places) {
    const { places: all } = shared;
    const [first, last] = [all[0], all[all.length - 1]];
    if (places === null || places[1] - places[0] >= last - first) {
      zoomed = null;
    } else {
      const width = Math.max(places[1] - places[0], Math.min(5, last - first));
      const from = Math.max(first, Math.min(places[0], last - width));
      zoomed = [axis.instant(from), axis.instant(from + width)];
    }
    applyZoom();
  }

  function zoomBy(factor) {
    const [min, max] = range();
    const at = chosen === null ? (min + max) / 2 : shared.places[chosen];
    const middle = at >= min && at <= max ? at : (min + max) / 2;
    const half = ((max - min) * factor) / 2;
    zoomTo([middle - half, middle + half]);
  }

  function moveBy(share) {
    const [min, max] = range();
    if (zoomed !== null) zoomTo([min + (max - min) * share, max + (max - min) * share]);
  }

  // From outside.

  function start(first) {
    if (!first || !first.buckets.length || !window.uPlot) return;
    data = first;
    if (root.hidden) {
      root.hidden = false;
      document.documentElement.classList.add("charted");
      root.append(controls, element("div", { class: "cursor" }, slider, readout), plots);
      new ResizeObserver(() => charts.forEach(({ plot }) => {
        const width = root.clientWidth;
        if (plot.width !== width) plot.setSize({ width, height: plot.height });
      })).observe(root);
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", build);
    }
    const instant = isFollowing || chosen === null ? null : axis.instant(shared.places[chosen]);
    compute();
    build();
    slider.max = String(shared.last);
    choose(instant === null ? shared.last : nearest(axis.place(instant)));
  }

  function nearest(place) {
    const after = shared.places.findIndex((one) => one > place + 1e-3);
    return after < 0 ? shared.last : Math.max(0, after - 1);
  }

  function update(news) {
    if (news.panels) {
      start(news);
      return;
    }
    if (data === null) return;
    const last = data.buckets.length ? data.buckets[data.buckets.length - 1][0] : -Infinity;
    data.buckets.push(...news.buckets.filter((row) => row[0] > last));
    Object.assign(data, { spans: news.spans, shades: news.shades, offsets: news.offsets });
    compute();
    const visible = charts.reduce((sum, { drawn }) => sum + drawn.length, 0);
    const now = data.panels.reduce(
      (sum, spec) => sum + spec.series.filter((one) => seriesValues(one) !== null).length, 0);
    if (visible !== now) {
      build();
    } else {
      for (const chart of charts) {
        chart.drawn.forEach((one) => (one.values = seriesValues(one.one)));
        const values = chart.spec ? chart.drawn.map((one) => one.values) : [shared.places.map(() => 0)];
        chart.plot.setData([shared.places, ...values], false);
        chart.place.setAttribute("aria-label", describe(chart.spec, chart.drawn));
      }
      applyZoom();
    }
    slider.max = String(shared.last);
    choose(isFollowing ? shared.last : chosen);
  }

  const filled = document.getElementById("chart-data");
  if (root && filled) start(JSON.parse(filled.textContent));

  return { update, values: () => charts.map(({ spec, drawn, plot }) => ({
    title: spec ? spec.title : "Circuit",
    series: drawn.map(({ one, values }) => [one.name, values]),
    places: plot.data[0],
    shown: [plot.scales.x.min, plot.scales.x.max],
  })) };
})();
