// Lets a cell that is run before its notebook has a kernel wait for it: JupyterLab itself would
// clear the cell and say nothing.
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

  // Resolves when there is a kernel, or it is certain that there shall be none.
  async function kernel({ cell, sessionContext }) {
    if (cell.model.type === 'code' && sessionContext && !sessionContext.isReady && !sessionContext.session) {
      cell.setPrompt('*');
      await sessionContext.ready;
    }
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
