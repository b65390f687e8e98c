// Notes in a notebook's metadata with which of the administrator's environments its cells were run, and warns where they were last run with another.
//
// A module federation container written by hand, as message.js is. Which revision a kernel has is in the server's model of the kernel
// (debianized_jupyterhub/kernels.py): a running kernel keeps the one that it was started with, whatever its kernelspec says by now.
(() => {
  const KEY = 'jupyterhub_environment'; // docs/environments.md
  const FIELDS = ['name', 'revision', 'python', 'lock'];
  const LONG = 20; // characters of a name; JupyterLab cuts a notification off at 140
  const RESTARTS = ['restarting', 'autorestarting', 'starting'];
  const known = new WeakMap(); // of a kernel's connection: {answer}, the promise of its environment
  let shared;

  // A module of JupyterLab's own, at the version that runs.
  async function load(name) {
    const versions = Object.values(shared[name]);
    return (await (versions.find(version => version.loaded) ?? versions[0]).get())();
  }

  // Resolves when the kernel is there: a restart may give it another revision.
  function settled(kernel) {
    return new Promise(resolve => {
      const look = () => {
        if (kernel.isDisposed || !RESTARTS.includes(kernel.status)) {
          kernel.statusChanged.disconnect(look);
          resolve();
        }
      };
      kernel.statusChanged.connect(look);
      look();
    });
  }

  async function ask(kernel) {
    const { KernelAPI } = await load('@jupyterlab/services');
    await settled(kernel);
    return (await KernelAPI.getKernelModel(kernel.id, kernel.serverSettings))?.environment;
  }

  // Resolves with a kernel's environment: null for a kernel of none, undefined where nobody can tell now. Asked once for each start of the kernel.
  function environmentOf(kernel) {
    let entry = known.get(kernel);
    if (!entry) {
      entry = {};
      known.set(kernel, entry);
      kernel.statusChanged.connect((_, status) => RESTARTS.includes(status) && (entry.answer = undefined));
    }
    return (entry.answer ??= ask(kernel).catch(() => (entry.answer = undefined)));
  }

  const isRecord = value => typeof value?.name === 'string' && Number.isInteger(value.revision);
  const sameRevision = (one, other) => one.name === other.name && one.revision === other.revision;

  // Is it the same software? An environment that was imported elsewhere has another name, and one that was made anew may have the old one.
  function same(record, now) {
    const byLock = typeof record.lock === 'string' && now?.lock;
    return !!now && (byLock ? record.lock === now.lock && record.python === now.python : sameRevision(record, now));
  }

  function warning(path, record, now) {
    const short = name => (name.length > LONG ? `${name.slice(0, LONG - 1)}…` : name);
    const of = ({ name, revision }) => `revision ${revision} of ${short(name)}`;
    let instead = 'not with this kernel';
    if (now) {
      instead = now.name !== record.name ? `not ${of(now)}` : `not revision ${now.revision}`;
      instead = sameRevision(record, now) ? 'which has been made anew since' : instead;
    }
    return `Results may differ: ${short(path.split('/').pop())} was last run with ${of(record)}, ${instead}.`;
  }

  // Compares the note of a notebook with its kernel's environment, and brings it up to date; so it warns once.
  async function look({ notebook }) {
    const kernel = notebook.parent?.sessionContext?.session?.kernel;
    const now = kernel ? await environmentOf(kernel) : undefined;
    const model = notebook.model;
    const record = model?.getMetadata(KEY);
    if (!model || now === undefined || (record !== undefined && !isRecord(record))) {
      return; // nothing is known, or somebody else's note is there
    }
    if (now && !FIELDS.every(field => record?.[field] === now[field])) {
      model.setMetadata(KEY, { ...record, ...now });
    } else if (record && !now) {
      model.deleteMetadata(KEY);
    }
    if (record && !same(record, now)) {
      const { Notification } = await load('@jupyterlab/apputils');
      Notification.warning(warning(notebook.parent?.context?.path ?? '', record, now), { autoClose: false });
    }
  }

  function activate(app) {
    app.restored.then(async () => {
      const { NotebookActions } = await load('@jupyterlab/notebook');
      // Before a cell, which may take hours; and after it, should the kernel have been restarted meanwhile.
      for (const signal of [NotebookActions.executionScheduled, NotebookActions.executed]) {
        signal.connect((_, cell) => void look(cell).catch(console.error));
      }
    });
  }

  const plugin = { id: 'jupyterhub-environment-record:plugin', autoStart: true, activate };
  (window._JUPYTERLAB ??= {})['jupyterhub-environment-record'] = {
    init: scope => void (shared = scope),
    get: async () => () => ({ __esModule: true, default: plugin })
  };
})();
