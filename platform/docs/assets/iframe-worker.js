// Browsers start no Worker from a page that lies on the disk. There the search runs in a hidden frame, which is what
// Material's offline mode expects (it would fetch a script of that purpose from the network).
"use strict";
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.ready = new Promise(done => { this.frame.onload = done; });
      this.heard = event => {
        if (event.source !== this.frame.contentWindow) return;
        const message = new MessageEvent("message", {data: event.data});
        this.dispatchEvent(message);
        if (this.onmessage) this.onmessage(message);
      };
      addEventListener("message", this.heard);
      const source = String(new URL(url, location.href)).replaceAll("&", "&amp;").replaceAll('"', "&quot;");
      this.frame.srcdoc = `<script>
        self.postMessage = data => parent.postMessage(data, "*");
        self.importScripts = (...sources) => sources.reduce((before, source) => before.then(() => new Promise(done => {
          const script = document.createElement("script");
          script.src = source;
          script.onload = done;
          document.body.append(script);
        })), Promise.resolve());
      <\/script><body><script src="${source}"><\/script>`;
      document.body.append(this.frame);
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", {data})));
    }
    terminate() {
      removeEventListener("message", this.heard);
      this.frame.remove();
    }
  };
}
