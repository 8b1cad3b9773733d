"use strict";
// Draws the charts when their tab is opened, in the colours of the light or dark scheme; tabs, sorting, and the choices of the Pareto plot.
(() => {
  const charts = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const config = { displayModeBar: false, displaylogo: false, responsive: false, showTips: false };
  const NARROW = 480;

  // "var(--name)" -> what the style sheet says of it now
  const coloured = (value, style) => {
    if (typeof value === "string") {
      const found = /^var\((--[a-z0-9-]+)\)$/.exec(value);
      return found ? style.getPropertyValue(found[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => coloured(item, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, style)]));
    }
    return value;
  };

  const chosen = (chart) => {
    if (!chart.choices) return chart.figure;
    const view = document.getElementById("pareto-view"), cost = document.getElementById("pareto-cost");
    return chart.choices[`${cost.value} ${view.value}`];
  };

  const draw = (place) => {
    if (!place.offsetParent) return; // in a tab or block that is closed
    const figure = coloured(chosen(charts[place.dataset.chart]), getComputedStyle(document.documentElement));
    const width = place.clientWidth;
    if (width < NARROW) {
      figure.layout.font.size = 11;
      for (const trace of figure.data) if (trace.mode === "markers+text") trace.mode = "markers"; // names would cover each other
      const across = figure.layout.xaxis;
      if (across.tickvals?.length > 4) [across.tickvals, across.ticktext] = [across.tickvals, across.ticktext].map((all) => all.filter((_, i) => i % 2 === 0));
      if (across.nticks) across.nticks = 4;
      const ticks = figure.layout.yaxis.ticktext;
      if (ticks) figure.layout.yaxis.ticktext = ticks.map((text) => shorter(text, 18));
    }
    Plotly.react(place, figure.data, { ...figure.layout, width, height: charts[place.dataset.chart].height }, config);
    place.dataset.width = String(width);
  };

  const shorter = (text, length) => {
    if (text.length <= length || text.includes("&")) return text;
    const tail = Math.floor((length - 1) / 2);
    return text.slice(0, length - 1 - tail) + "…" + text.slice(-tail);
  };

  // says so where a table goes on beyond the window
  const sayWide = () => document.querySelectorAll(".sideways").forEach((note) => {
    const area = note.nextElementSibling;
    if (area.offsetParent) note.hidden = area.scrollWidth <= area.clientWidth + 1;
  });

  const places = [...document.querySelectorAll(".plot")];
  const drawNew = () => {
    sayWide();
    places.forEach((place) => Number(place.dataset.width) !== place.clientWidth && draw(place));
  };
  const drawAll = () => places.forEach(draw);

  // tabs: arrow keys, Home and End move; #/name in the address opens (with the slash, so that the browser does not jump to the panel)
  const list = document.querySelector(".tabs"), tabs = [...list.querySelectorAll("[role=tab]")];
  const open = (tab, focus) => {
    for (const each of tabs) {
      const now = each === tab;
      each.setAttribute("aria-selected", String(now));
      each.tabIndex = now ? 0 : -1;
      document.getElementById(each.getAttribute("aria-controls")).classList.toggle("off", !now);
    }
    list.scrollLeft = tab.offsetLeft - list.offsetLeft - (list.clientWidth - tab.offsetWidth) / 2;
    if (focus) tab.focus({ preventScroll: true });
    drawNew();
  };
  const named = (name) => tabs.find((tab) => tab.getAttribute("aria-controls") === name);
  const go = (tab, focus) => {
    open(tab, focus);
    history.replaceState(null, "", `#/${tab.getAttribute("aria-controls")}`);
    if (scrollY > list.offsetTop) scrollTo({ top: list.offsetTop, behavior: "instant" });
  };
  list.hidden = false;
  list.addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) go(tab, true);
  });
  list.addEventListener("keydown", (event) => {
    const at = tabs.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    go(tabs[(to + tabs.length) % tabs.length], true);
  });
  for (const link of document.querySelectorAll("a[data-tab]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      go(named(link.dataset.tab), true);
    });
  }

  // tables that sort: a body of one model and its repetitions moves as one; what has no value stays last
  const text = new Intl.Collator("en", { numeric: true });
  const sort = (table, column, heading) => {
    const before = heading.getAttribute("aria-sort");
    const first = heading.dataset.first || "ascending";
    const next = before === "none" ? first : before === "ascending" ? "descending" : "ascending";
    for (const each of table.tHead.rows[0].cells) if (each.hasAttribute("aria-sort")) each.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", next);
    const value = (body) => body.rows[0].cells[column].dataset.value ?? "";
    const sign = next === "ascending" ? 1 : -1;
    const compare = (a, b) => (heading.classList.contains("n") ? Number(a) - Number(b) : text.compare(a, b));
    const bodies = [...table.tBodies].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * compare(x, y);
    });
    table.append(...bodies);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      heading.querySelector("button")?.addEventListener("click", () => sort(table, column, heading));
    });
  }
  for (const button of document.querySelectorAll("button.more")) {
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-expanded") !== "true";
      button.setAttribute("aria-expanded", String(shown));
      for (const row of [...button.closest("tbody").rows].slice(1)) row.hidden = !shown;
    });
  }

  for (const id of ["pareto-view", "pareto-cost"]) {
    document.getElementById(id)?.addEventListener("change", () => draw(document.querySelector("[data-chart=pareto]")));
  }
  for (const block of document.querySelectorAll("details.run")) block.addEventListener("toggle", drawNew);
  dark.addEventListener("change", drawAll);
  addEventListener("resize", drawNew);
  addEventListener("beforeprint", () => {
    for (const tab of tabs) document.getElementById(tab.getAttribute("aria-controls")).classList.remove("off");
    drawAll();
  });
  addEventListener("afterprint", () => open(tabs.find((tab) => tab.tabIndex === 0)));
  addEventListener("hashchange", () => {
    const tab = named(location.hash.replace(/^#\/?/, ""));
    if (tab) open(tab);
  });
  open(named(location.hash.replace(/^#\/?/, "")) || tabs[0]);
})();
