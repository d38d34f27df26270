// Keeps the page up to date over server-sent events, only while it is looked at.
"use strict";
(() => {
  const PATIENCE_MS = [1000, 2000, 5000, 10000, 30000];
  const status = document.getElementById("live");
  const address = document.body.dataset.events;
  let source = null;
  let isOver = false;
  let failures = 0;
  let timer = 0;

  function say(text) {
    if (status.textContent !== text) status.textContent = text; // a screen reader says it once
  }

  function replace(id, content) {
    const element = document.getElementById(id);
    if (!element || element.dataset.shown === content) return;
    const opened = new Set([...element.querySelectorAll("details[open]")].map((one) => one.dataset.key));
    const scrolled = [...element.querySelectorAll(".scroll")].map((one) => [one.ariaLabel, one.scrollLeft]);
    const focused = element.contains(document.activeElement) ? document.activeElement : null;
    const focusLabel = focused && focused.ariaLabel;
    const focusKey = focused && focused.parentElement && focused.parentElement.dataset.key;
    element.innerHTML = content; // made by the server, which escapes all text
    element.hidden = !content;
    if (content.length < 20000) element.dataset.shown = content;
    for (const one of element.querySelectorAll("details")) one.open = opened.has(one.dataset.key);
    for (const one of element.querySelectorAll(".scroll")) {
      const known = scrolled.find(([label]) => label === one.ariaLabel);
      if (known) one.scrollLeft = known[1];
      if (focusLabel && one.ariaLabel === focusLabel) one.focus({ preventScroll: true });
    }
    if (focusKey) {
      const again = [...element.querySelectorAll("details")].find((one) => one.dataset.key === focusKey);
      if (again) again.querySelector("summary").focus({ preventScroll: true });
    }
  }

  function receive(event) {
    failures = 0;
    const news = JSON.parse(event.data);
    if (news.title) document.title = news.title;
    for (const [id, content] of Object.entries(news.parts)) replace(id, content);
    if (news.chart && typeof llmbatchCharts !== "undefined") llmbatchCharts.update(news.chart);
    document.body.dataset.seq = news.seq;
    if (news.final) {
      isOver = true;
      disconnect();
    }
    say(news.status);
  }

  function disconnect() {
    clearTimeout(timer);
    if (source) source.close();
    source = null;
  }

  function connect() {
    disconnect();
    if (isOver || document.hidden) return;
    source = new EventSource(address);
    source.onmessage = receive;
    source.onerror = () => {
      disconnect();
      failures += 1;
      if (failures > 1) {
        say("Connection lost: the run may have ended, or many pages are open. Trying again. llmbatch status says more.");
      }
      timer = setTimeout(connect, PATIENCE_MS[Math.min(failures, PATIENCE_MS.length) - 1]);
    };
  }

  if (!address) return;
  say("Connecting …");
  // A page in the background holds no connection; it catches up when it is looked at again.
  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
  addEventListener("pagehide", disconnect);
  addEventListener("pageshow", (event) => event.persisted && connect());
  connect();
})();
