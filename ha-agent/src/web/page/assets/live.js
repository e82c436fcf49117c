// Brings pages up to date as the node changes. Without scripting they reload themselves.
"use strict";
const lost = document.getElementById("connection");

// Puts fresh parts where the old ones are; who is about to use one of their links or buttons stays there.
function show(parts) {
  const usable = "a, button, input, select, textarea";
  for (const part of parts) {
    const shown = document.getElementById(part.id);
    if (!shown || !shown.hasAttribute("data-live") || shown.innerHTML === part.innerHTML) continue;
    const at = [...shown.querySelectorAll(usable)].indexOf(document.activeElement);
    shown.innerHTML = part.innerHTML;
    if (at >= 0) shown.querySelectorAll(usable)[at]?.focus();
  }
}

let source;
let heard = 0;

function listen() {
  source = new EventSource("/api/v1/live");
  heard = Date.now();
  source.addEventListener("alive", () => { heard = Date.now(); });
  source.addEventListener("part", (event) => {
    heard = Date.now();
    lost.hidden = true;
    const fresh = document.createElement("template");
    fresh.innerHTML = event.data;
    show(fresh.content.children);
  });
  source.addEventListener("error", () => {
    lost.hidden = false;
    // Closed for good: the session has ended, or another node has the address. A form that is being filled in stays.
    if (source.readyState === EventSource.CLOSED && !document.querySelector("form[method=post] .field")) {
      setTimeout(() => location.reload(), 2000);
    }
  });
}

// A node that has gone says nothing, and the connection to it does not end by itself.
setInterval(() => {
  if (source.readyState === EventSource.OPEN && Date.now() - heard > 5000) {
    source.close();
    lost.hidden = false;
    listen();
  }
}, 1000);
listen();

// What is not sent to everybody is asked for from time to time.
for (const part of document.querySelectorAll("[data-reload]")) {
  setInterval(async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(location.href, { redirect: "error" });
      if (!answer.ok) return;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      const found = fresh.getElementById(part.id);
      if (found) show([found]);
    } catch (error) { /* the node is away for a moment */ }
  }, part.dataset.reload * 1000);
}

// A file that is chosen goes into the text beside it.
for (const field of document.querySelectorAll("[data-script]")) field.hidden = false;
for (const file of document.querySelectorAll("[data-fills]")) {
  file.addEventListener("change", async () => {
    if (file.files.length) document.getElementById(file.dataset.fills).value = await file.files[0].text();
  });
}
