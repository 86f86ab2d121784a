"""Configuration of the documentation; `make docs` builds it with warnings as errors and without the network."""

import atexit
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
# notebooks call `geomlib` as a reader would
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm would like a widget where there is a notebook
# data sets of whoever builds are not part of the documentation
os.environ.pop("GEOMLIB_DATA", None)
# nor are their IPython settings; the kernel's warning about its local sockets is of no use in a build
ipython = Path(tempfile.mkdtemp(prefix="geomlib-docs-"))
atexit.register(shutil.rmtree, ipython, ignore_errors=True)
(ipython / "profile_default").mkdir()
(ipython / "profile_default" / "ipython_kernel_config.py").write_text(
    "c.IPKernelApp.log_level = 40\n", encoding="utf-8"
)
os.environ["IPYTHONDIR"] = str(ipython)
logging.getLogger("traitlets").setLevel(logging.WARNING)

from geomlib import __version__

project = "geomlib"
author = "The geomlib developers"
copyright = "The geomlib developers, Apache-2.0"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "myst_nb",
    "generated_pages",
]
exclude_patterns = ["_build", "jupyter_execute", "_ext"]

smartquotes = False  # they would turn --options into dashes

html_theme = "furo"
html_title = "geomlib"
html_theme_options = {"navigation_with_keys": True}
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["geomlib.css"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "amsmath", "attrs_block"]
myst_heading_anchors = 3
nb_execution_mode = "force"  # pages run at every build, since the code may have changed where a page has not
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 180
nb_merge_streams = True

autodoc_default_options = {"show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Class attributes", "params_style")]
default_role = "code"
