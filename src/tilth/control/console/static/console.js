// What scripts add to pages that work without them: live parts, dialogs, copying, values under the pointer, times.
"use strict";

(() => {
  // Text becomes a part of a page here and in htmx alone, and it comes from this server, escaped. A script never does.
  if (window.trustedTypes) {
    window.trustedTypes.createPolicy("default", {
      createHTML: (text) => {
        if (/<(script|iframe|object|embed|base)\b/i.test(text)) {
          throw new TypeError("a part of a page holds what no page of the console does");
        }
        return text;
      },
    });
  }

  const all = (selector, root) => Array.from((root || document).querySelectorAll(selector));

  // -- live parts

  let source = null;

  function fill(data, adds) {
    const end = data.indexOf("\n");
    const target = document.getElementById(data.slice(0, end));
    if (!target) return;
    const html = data.slice(end + 1);
    if (!adds) {
      target.innerHTML = html;
    } else {
      target.insertAdjacentHTML("afterbegin", html);
      const most = Number(target.dataset.most || 200);
      while (target.children.length > most) target.lastElementChild.remove();
    }
    if (target.dataset.shown) showValues(target);
    enhance(target);
  }

  const ENDED = {
    "signed-out": "You are signed out: this page does not follow any more. Load it again to sign in.",
    role: "What you may do here has changed. Load the page again.",
    gone: "What this page shows is not there any more.",
    refused: "This page does not follow any more. Load it again.",
  };

  function say(text) {
    for (const banner of all("[data-ended]")) {
      banner.querySelector("p").textContent = text;
      banner.hidden = false;
    }
    mark(false);
  }

  function mark(on) {
    for (const one of all("[data-live-mark]")) one.hidden = !on;
  }

  function follow() {
    const at = document.querySelector("[data-live]");
    if (!at || source || document.hidden) return;
    const address = at.dataset.live;
    source = new EventSource(address);
    source.addEventListener("open", () => mark(true));
    source.addEventListener("part", (event) => fill(event.data, false));
    source.addEventListener("add", (event) => fill(event.data, true));
    source.addEventListener("end", (event) => {
      stop();
      say(ENDED[event.data] || ENDED.refused);
    });
    source.addEventListener("error", () => {
      mark(false);
      if (source && source.readyState === EventSource.CLOSED) {
        stop();
        say("Live numbers are not to be had: sign in again, or close other pages that follow. Load the page again.");
      }
    });
  }

  function stop() {
    if (source) source.close();
    source = null;
    mark(false);
  }

  // A page that nobody sees holds no connection: a browser has few of them for one server.
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : follow()));
  window.addEventListener("pagehide", stop);
  window.addEventListener("pageshow", (event) => { if (event.persisted) follow(); });

  // -- dialogs

  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-opens]");
    if (opener) {
      const dialog = document.getElementById(opener.dataset.opens);
      const [name, value] = (opener.dataset.fills || "").split("=");
      const field = name ? dialog.querySelector(`[name="${CSS.escape(name)}"]`) : null;
      if (field) field.value = value;
      dialog.showModal();
      return;
    }
    if (event.target instanceof HTMLDialogElement && event.target.open) event.target.close();
    for (const menu of all("details.switch[open]")) if (!menu.contains(event.target)) menu.open = false;
  });

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const menu of all("details.switch[open]")) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });

  // A button that closes its dialog sends nothing anywhere, whatever is attached to its form.
  document.addEventListener("click", (event) => {
    const button = event.target.closest('button[formmethod="dialog"]');
    if (!button) return;
    event.preventDefault();
    event.stopPropagation();
    button.closest("dialog").close();
  }, true);

  // -- copying

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
      button.textContent = "Copied";
    } catch {
      const range = document.createRange();
      range.selectNodeContents(button.parentElement.querySelector("code"));
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      button.textContent = "Press Ctrl-C";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });

  // -- times

  function ago(seconds) {
    if (seconds < 5) return "just now";
    if (seconds < 60) return `${Math.floor(seconds)} s ago`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
    if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
    const days = Math.floor(seconds / 86400);
    return days < 14 ? `${days} day${days === 1 ? "" : "s"} ago` : null;
  }

  function tick() {
    for (const one of all("time[data-ago]")) {
      const seconds = (Date.now() - Date.parse(one.dateTime)) / 1000;
      const text = seconds >= 0 ? ago(seconds) : null;
      if (text && text !== one.textContent) one.textContent = text;
    }
  }
  setInterval(tick, 10000);

  // -- values under the pointer

  let pointed = null;

  function words(value, unit) {
    if (value === null || value === undefined) return "\u2013";
    const digits = value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3;
    return `${value.toFixed(digits)}${unit === "/s" ? "/s" : ` ${unit}`}`;
  }

  function nearest(points, seconds) {
    let best = null;
    for (const point of points) {
      if (best === null || Math.abs(point[0] - seconds) < Math.abs(best[0] - seconds)) best = point;
    }
    return best;
  }

  function showValues(root) {
    if (!pointed) return;
    const chart = all("[data-chart]", root).find((one) => one.querySelector("title").id === pointed.id);
    if (chart) tell(chart, pointed.share);
  }

  function tell(chart, share) {
    const told = JSON.parse(chart.dataset.chart);
    const box = chart.querySelector(".chart-told");
    const seconds = -told.span * (1 - share);
    box.replaceChildren();
    const head = document.createElement("p");
    head.textContent = `${Math.round(-seconds)} s ago`;
    box.append(head);
    for (const one of told.series) {
      const found = nearest(one.points, seconds);
      const line = document.createElement("p");
      const key = document.createElement("span");
      key.className = `key c${one.colour}`;
      line.append(key, `v${one.name} ${words(found && found[1], told.unit)}`);
      box.append(line);
    }
    box.hidden = false;
    box.style.setProperty("--at", String(share));
    box.classList.toggle("left", share > 0.6);
  }

  document.addEventListener("pointermove", (event) => {
    const plot = event.target.closest && event.target.closest("[data-chart] .plot");
    if (!plot) {
      if (pointed) for (const box of all(".chart-told")) box.hidden = true;
      pointed = null;
      return;
    }
    const chart = plot.closest("[data-chart]");
    const area = chart.querySelector(".plot").getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - area.left) / area.width));
    if (pointed && pointed.id !== chart.querySelector("title").id) for (const box of all(".chart-told")) box.hidden = true;
    pointed = { id: chart.querySelector("title").id, share };
    const live = chart.closest("#endpoint-charts");
    if (live) live.dataset.shown = "yes";
    tell(chart, share);
  });

  // -- what comes anew

  function enhance(root) {
    for (const button of all("[data-copy]", root)) button.hidden = false;
  }

  function begin() {
    enhance(document);
    follow();
    // On a phone the menu is a row to be moved sideways: what is open is in sight.
    const here = document.querySelector(".side nav a[aria-current]");
    const row = here && here.closest("nav");
    if (row && row.scrollWidth > row.clientWidth) row.scrollLeft = here.offsetLeft - row.clientWidth / 2;
    const first = document.querySelector("[data-focus]");
    if (first) first.focus({ preventScroll: true });
  }

  document.addEventListener("DOMContentLoaded", begin);
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.target.id === "page") {
      stop();
      // A word for what was done belongs to this moment, and not to the address that somebody keeps.
      begin();
    } else {
      enhance(event.target);
    }
  });
  document.addEventListener("htmx:afterSettle", () => tidy());

  function tidy() {
    const address = new URL(location.href);
    if (address.searchParams.has("done")) {
      address.searchParams.delete("done");
      history.replaceState(history.state, "", address);
    }
  }
  document.addEventListener("DOMContentLoaded", tidy);
  document.documentElement.classList.add("scripted");
})();
