// Lets a cell that is run while a kernel is on its way wait for it: JupyterLab itself would clear
// the cell and say nothing, or give it to the kernel that goes.
//
// In place of JupyterLab's own plugin for INotebookCellExecutor, which package.json disables. A module
// federation container written by hand, as message.js is.
(() => {
  let shared;

  // A module of JupyterLab's own, at the version that runs.
  async function load(name) {
    const versions = Object.values(shared[name]);
    return (await (versions.find(version => version.loaded) ?? versions[0]).get())();
  }

  // Is JupyterLab starting a kernel, or changing it for another? For one that restarts, and one that says itself that it starts, JupyterLab keeps cells.
  function isComing({ session, kernelDisplayStatus: status }) {
    return status === 'initializing' || (status === 'starting' && session?.kernel?.status !== 'starting');
  }

  // Resolves when there is a kernel, or it is certain that there shall be none.
  function kernel({ cell, sessionContext: context }) {
    if (cell.model.type !== 'code' || !context || !isComing(context)) {
      return Promise.resolve();
    }
    cell.setPrompt('*');
    return new Promise(resolve => {
      const signals = [context.sessionChanged, context.kernelChanged, context.statusChanged, context.disposed];
      const look = () => {
        if (context.isDisposed || !isComing(context)) {
          signals.forEach(signal => signal.disconnect(look));
          resolve();
        }
      };
      signals.forEach(signal => signal.connect(look));
      void context.ready.then(look);
    });
  }

  async function get() {
    const { INotebookCellExecutor, runCell } = await load('@jupyterlab/notebook');
    const plugin = {
      id: 'jupyterhub-patient-cells:plugin',
      autoStart: true,
      provides: INotebookCellExecutor,
      activate: () => ({ runCell: options => kernel(options).then(() => runCell(options)) })
    };
    return () => ({ __esModule: true, default: plugin });
  }

  (window._JUPYTERLAB ??= {})['jupyterhub-patient-cells'] = { init: scope => void (shared = scope), get };
})();
