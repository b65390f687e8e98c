// Shows the message of `jupyterhub-ctl message` as a notification in JupyterLab and Notebook.
//
// A module federation container written by hand: JupyterLab calls init() with the modules that it
// shares, and get() for the plugin. The other end is MessageSocket in debianized_jupyterhub/handlers.py.
(() => {
  const RETRY = [2000, 8000]; // ms, at random between these, so that pages do not come all at once
  const SHORT = 120; // characters; JupyterLab cuts a notification off at 140
  let shared;

  // A module of JupyterLab's own, at the version that runs.
  async function load(name) {
    const versions = Object.values(shared[name]);
    return (await (versions.find(version => version.loaded) ?? versions[0]).get())();
  }

  function option(name) {
    const config = document.getElementById('jupyter-config-data');
    return JSON.parse(config?.textContent || '{}')[name] || '';
  }

  // Calls tell({id, text}) with the message and each later one, as long as the page lives.
  function listen(url, tell) {
    const socket = new WebSocket(url);
    socket.onmessage = event => tell(JSON.parse(event.data));
    // Also while the hub is away.
    socket.onclose = () => setTimeout(listen, RETRY[0] + Math.random() * (RETRY[1] - RETRY[0]), url, tell);
  }

  function activate(app) {
    const prefix = option('hubPrefix');
    if (!prefix) {
      return; // not below a hub
    }
    const url = new URL(`${option('hubHost')}${prefix}message`, location.href);
    url.protocol = url.protocol.replace('http', 'ws');
    let seen = null; // id of the message on show
    let shown = null; // id of its notification
    let queue = Promise.resolve(); // one after the other
    const tell = async ({ id, text }) => {
      if (id === seen) {
        return;
      }
      const { Dialog, Notification, showDialog } = await load('@jupyterlab/apputils');
      if (shown) {
        Notification.dismiss(shown);
      }
      seen = id;
      const buttons = [Dialog.okButton({ label: 'Close' })];
      const readAll = {
        label: 'Read all',
        callback: event => {
          event.preventDefault(); // the notification stays
          void showDialog({ title: 'Message of the administrator', body: text, buttons });
        }
      };
      const actions = text?.length > SHORT ? [readAll] : [];
      shown = text ? Notification.warning(text, { autoClose: false, actions }) : null;
    };
    // Nobody has to wait for it: after the start.
    app.restored.then(() => listen(url, message => (queue = queue.then(() => tell(message)).catch(console.error))));
  }

  const plugin = { id: 'jupyterhub-message:plugin', autoStart: true, activate };
  (window._JUPYTERLAB ??= {})['jupyterhub-message'] = {
    init: scope => void (shared = scope),
    get: async () => () => ({ __esModule: true, default: plugin })
  };
})();
