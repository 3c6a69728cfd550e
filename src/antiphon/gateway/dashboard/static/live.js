"use strict";
// A live page: an event says that something has changed, and the page's part is fetched and put in, element by element,
// so that focus, selection and what was opened stay. Without a stream it looks by itself, and says since when.
(() => {
  const LOOK = 5000, TICK = 30000, AGAIN = 10000;
  const place = document.querySelector(".live");
  if (!place) return;
  const state = place.querySelector("[data-state]"), button = document.getElementById("pause");
  const { topic, part, target } = place.dataset;
  let source = null, lostAt = null, looking = null, fetching = false, again = false;

  const paused = () => new URLSearchParams(location.search).has("paused");
  const clock = (at) => at.toISOString().slice(11, 16);

  function say() {
    state.textContent = paused() ? "Paused"
      : lostAt ? `Not live since ${clock(lostAt)} UTC, reconnecting` : source && source.readyState === 1 ? "Live" : "Connecting";
    button.setAttribute("aria-pressed", String(paused()));
    button.textContent = paused() ? "Go on" : "Pause";
  }

  function keyed(children) {
    return new Map([...children].filter((each) => each.id).map((each) => [each.id, each]));
  }

  const blank = (node) => node.nodeType === 3 && !node.nodeValue.trim();

  // Make an element like a newer one. Rows of a list that is to keep them stay, also when the newer one has them no more.
  function become(old, fresh) {
    for (const { name, value } of [...fresh.attributes]) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && name !== "open" && name !== "tabindex") old.removeAttribute(name);
    }
    const known = keyed(old.children), wanted = keyed(fresh.children);
    let next = old.firstChild;
    for (const one of [...fresh.childNodes]) {
      if (blank(one)) continue;  // Blanks between elements are left as they are.
      while (next && blank(next)) next = next.nextSibling;
      while (next && next.id && !wanted.has(next.id) && one.id) {
        const gone = next;
        next = next.nextSibling;
        if (!old.hasAttribute("data-keep")) gone.remove();
      }
      const same = one.id ? known.get(one.id) : next && !next.id && next.nodeName === one.nodeName ? next : null;
      if (!same) { old.insertBefore(one, next); continue; }
      if (same === next) next = next.nextSibling;
      else if (!old.hasAttribute("data-keep")) old.insertBefore(same, next);
      if (same.nodeType === 1) become(same, one);
      else if (same.nodeValue !== one.nodeValue) same.nodeValue = one.nodeValue;
    }
    while (next) {
      const gone = next;
      next = next.nextSibling;
      if (!blank(gone) && !(gone.id && old.hasAttribute("data-keep"))) gone.remove();
    }
  }

  async function refresh() {
    if (paused() || document.visibilityState !== "visible") return;
    if (fetching) { again = true; return; }
    fetching = true;
    try {
      if (part) {
        const answer = await fetch(part);
        if (answer.status === 401) { location.assign("/login"); return; }
        if (!answer.ok) return;
        const held = document.getElementById(target), fresh = held.cloneNode(false);
        const text = await answer.text();
        // The part of a page that has no address of its own is within the page.
        const within = new DOMParser().parseFromString(text, "text/html").getElementById(target);
        fresh.innerHTML = within ? within.innerHTML : text;
        // Paused meanwhile: it stays as it was.
        if (!paused()) become(held, fresh);
      }
      document.dispatchEvent(new CustomEvent("antiphon:changed"));
    } catch { /* The next look tells. */ } finally {
      fetching = false;
      if (again) { again = false; refresh(); }
    }
  }

  function changed() {
    const told = document.getElementById("fresh");
    if (told) told.hidden = false;
    refresh();
  }

  function lost() {
    lostAt ??= new Date();
    if (!looking) looking = setInterval(part ? refresh : () => {}, LOOK);
    if (source && source.readyState === 2) { close(); setTimeout(open, AGAIN); }
    say();
  }

  function close() {
    if (source) source.close();
    source = null;
  }

  function open() {
    if (source || paused() || document.visibilityState !== "visible") { say(); return; }
    source = new EventSource(`/dashboard/changes?topic=${encodeURIComponent(topic)}`);
    source.onopen = () => {
      if (lostAt) refresh();
      lostAt = null;
      clearInterval(looking);
      looking = null;
      say();
    };
    source.addEventListener("changed", changed);
    source.onerror = lost;
    say();
  }

  button.addEventListener("click", () => {
    const address = new URL(location.href);
    if (paused()) address.searchParams.delete("paused"); else address.searchParams.set("paused", "1");
    history.replaceState(null, "", address);
    if (paused()) { close(); clearInterval(looking); looking = null; lostAt = null; say(); } else { open(); refresh(); }
  });
  // A browser has six connections to a server: a page that is not seen holds none.
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") { open(); refresh(); } else close();
  });
  addEventListener("pagehide", close);
  if (part) setInterval(refresh, TICK);  // What tells an age grows old without a change.
  open();
})();
