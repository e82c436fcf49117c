// Brings the page up to date as the node changes. Without scripting the page reloads itself.
"use strict";
const lost = document.getElementById("connection");
const source = new EventSource("/api/v1/live");
source.addEventListener("page", (event) => {
  lost.hidden = true;
  const fresh = document.createElement("template");
  fresh.innerHTML = event.data;
  for (const part of fresh.content.querySelectorAll("[id]")) {
    const shown = document.getElementById(part.id);
    if (shown && shown.hasAttribute("data-live") && shown.innerHTML !== part.innerHTML) {
      shown.innerHTML = part.innerHTML;
    }
  }
});
source.addEventListener("error", () => {
  lost.hidden = false;
  // Closed for good: the session has ended, or another node has the address.
  if (source.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 3000);
});
