# shellcheck shell=sh
# In a terminal of JupyterLab, and nowhere else: the programs of the notebook server, after those of the system.
# The variable is set by what starts the server.
if [ -n "${JUPYTERHUB_SERVER_PATH:-}" ]; then
    case ":$PATH:" in
    *":$JUPYTERHUB_SERVER_PATH:"*) ;;
    *) PATH=$PATH:$JUPYTERHUB_SERVER_PATH ;;
    esac
fi
