// Shows the message of `jupyterhub-ctl message`, and that this server is about to be stopped, as notifications in JupyterLab and Notebook.
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

  // Calls tell({id, text, ends}) with the message and each later one, as long as the page lives.
  function listen(url, tell) {
    const socket = new WebSocket(url);
    socket.onmessage = event => tell(JSON.parse(event.data));
    // Also while the hub is away.
    socket.onclose = () => setTimeout(listen, RETRY[0] + Math.random() * (RETRY[1] - RETRY[0]), url, tell);
  }

  // How long it is until `at` (seconds since 1970), and when that is.
  function span(at) {
    const minutes = Math.max(0, Math.ceil((at * 1000 - Date.now()) / 60000));
    const rough = minutes < 120 ? `${minutes} min` : `${Math.round(minutes / 60)} h`;
    const day = minutes < 720 ? {} : { day: 'numeric', month: 'short' };
    const time = new Date(at * 1000).toLocaleString([], { hour: '2-digit', minute: '2-digit', ...day });
    return `in ${minutes > 1 ? rough : 'less than a minute'} (${time})`;
  }

  // Returns a function that shows {at, text, idle}, the end of this server that is to come, and takes it away at undefined.
  function endings(app) {
    let end; // on show
    let shown; // id of its notification
    let put; // `at` of an end that the user has prevented; the hub hears of that a little later
    const message = () => `${end.text} This server and its kernels are stopped ${span(end.at)}: save your work.`;
    const keep = {
      label: 'Keep it running',
      callback: async () => {
        put = end.at;
        const { ServerConnection } = await load('@jupyterlab/services');
        const { serverSettings } = app.serviceManager;
        // Any request of JupyterLab's is use; one of the page's own has no XSRF token, and is refused.
        await ServerConnection.makeRequest(`${serverSettings.baseUrl}api/me`, {}, serverSettings);
      }
    };
    const show = async next => {
      const { Notification } = await load('@jupyterlab/apputils');
      const news = next?.at !== end?.at || next?.text !== end?.text;
      end = next;
      if (news && shown) {
        Notification.dismiss(shown);
        shown = undefined;
      }
      if (end && news && end.at !== put) {
        shown = Notification.warning(message(), { autoClose: false, actions: end.idle ? [keep] : [] });
      } else if (end && shown && document.getElementById(shown)) {
        // An update would bring back one that the user has closed.
        Notification.update({ id: shown, message: message() });
      }
    };
    setInterval(() => end && void show(end), 20000);
    return show;
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
    const tellEnd = endings(app);
    const tell = async ({ id, text, ends }) => {
      await tellEnd(ends?.find(end => end.server === option('baseUrl')));
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
