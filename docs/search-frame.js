// Pages that are opened as files may start no worker; search then runs in a frame that behaves like one.
if (location.protocol === "file:") {
  class IFrameWorker extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.title = "search";
      document.body.append(frame);
      this.inner = frame.contentWindow;
      this.inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.inner.importScripts = (...sources) =>
        sources.reduce((loaded, source) => loaded.then(() => this.run(source)), Promise.resolve());
      this.ready = this.run(url);
    }

    run(source) {
      return new Promise((loaded, failed) => {
        const script = this.inner.document.createElement("script");
        script.src = String(source);
        script.onload = loaded;
        script.onerror = failed;
        this.inner.document.head.append(script);
      });
    }

    postMessage(data) {
      this.ready.then(() => this.inner.dispatchEvent(new this.inner.MessageEvent("message", { data })));
    }

    terminate() {
      this.inner.frameElement.remove();
    }
  }
  window.IFrameWorker = IFrameWorker;
  window.Worker = IFrameWorker;
}
