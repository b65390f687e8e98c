// Where the user's own packages keep a kernel from starting, JupyterLab's message gets a button that starts the kernel without them.
//
// A module federation container written by hand, as message.js is. The message and the kernel are those of debianized_jupyterhub/kernels.py.
(() => {
  const MESSAGE = 'Your own packages keep this kernel from starting';
  const KERNEL = 'python3-bundled';

  const SELECT = 1000; // ms within which JupyterLab asks for another kernel, if it does
  let picking = false; // is the answer known?

  // Calls then(found) once look() has found something in the dialog, which is filled after it has appeared.
  function watch(dialog, look, then) {
    const observer = new MutationObserver(again);
    function again() {
      const found = look();
      if (found) {
        observer.disconnect();
        then(found);
      }
    }
    observer.observe(dialog, { childList: true, characterData: true, subtree: true });
    again();
  }

  function addButton(app, dialog) {
    const close = dialog.querySelector('.jp-Dialog-footer .jp-mod-accept');
    const button = document.createElement('button');
    button.className = 'jp-Dialog-button jp-mod-accept jp-mod-styled';
    button.textContent = 'Start without my packages';
    button.addEventListener('click', () => {
      const context = app.shell.currentWidget?.sessionContext;
      picking = true;
      close.click();
      setTimeout(() => {
        if (picking) {
          picking = false;
          void context?.changeKernel({ name: KERNEL });
        }
      }, SELECT);
    });
    close.after(button);
  }

  // In JupyterLab's question for a kernel that follows the message.
  function pick(dialog, option) {
    if (picking) {
      picking = false;
      option.parentElement.closest('select').value = option.value;
      dialog.querySelector('.jp-Dialog-footer .jp-mod-accept').click();
    }
  }

  function activate(app) {
    const look = records => {
      for (const node of records.flatMap(record => [...record.addedNodes])) {
        if (node.classList?.contains('jp-Dialog')) {
          const message = () => node.textContent.includes(MESSAGE) && node.querySelector('.jp-Dialog-footer .jp-mod-accept');
          watch(node, message, () => addButton(app, node));
          if (picking) {
            watch(node, () => node.querySelector(`option[value*='"${KERNEL}"']`), option => pick(node, option));
          }
        }
      }
    };
    new MutationObserver(look).observe(document.body, { childList: true });
  }

  const plugin = { id: 'jupyterhub-without-packages:plugin', autoStart: true, activate };
  (window._JUPYTERLAB ??= {})['jupyterhub-without-packages'] = {
    init: () => undefined,
    get: async () => () => ({ __esModule: true, default: plugin })
  };
})();
