# The lit suite: the IR of the dialects and passes, and the command lines of the tools.
import os
import subprocess

import lit.formats

config.name = "moeplan"
config.test_format = lit.formats.ShTest(execute_external=True)
config.suffixes = [".mlir", ".test"]
config.test_source_root = os.path.dirname(__file__)
config.excludes = ["support", "Inputs"]

config.environment["PATH"] = os.pathsep.join(
    [config.moeplan_bin_dir, config.llvm_tools_dir, config.environment["PATH"]])
config.environment["FILECHECK_OPTS"] = "--enable-var-scope --dump-input=fail"

# Nothing is taken from the user's cache, or kept there.
config.environment["XDG_CACHE_HOME"] = os.path.join(config.test_exec_root, "cache")

support = os.path.join(config.test_source_root, "support")
artifact = os.path.join(config.test_exec_root, "tiny.moeplan")
tiny = os.path.join(config.moeplan_source_root, "examples", "tiny-mixtral")

config.substitutions += [
    # The checkpoint, the policies and the golden numbers of the source tree.
    ("%tiny", tiny),
    ("%policies", os.path.join(config.moeplan_source_root, "examples", "policies")),
    ("%configs", os.path.join(config.moeplan_source_root, "examples", "configs")),
    ("%golden", os.path.join(config.moeplan_source_root, "tests", "golden")),
    ("%python", config.python),
    # Makes %artifact, which all tests share: one plan, one CPU, this machine's.
    ("%compile_artifact", f"sh {support}/compile-once.sh {tiny} {artifact}"),
    ("%artifact", artifact),
    # %error CODE COMMAND: COMMAND must exit with CODE and say why in one line, which is passed on.
    ("%error", f"sh {support}/expect-error.sh"),
]

# Where NVRTC may be found, and whether it is: a test that needs it says REQUIRES: nvrtc. The CUDA
# kernels are a part of moeplanc, unless it was built without.
for variable in ("MOEPLAN_NVRTC", "CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV", "HOME", "LD_LIBRARY_PATH"):
    if variable in os.environ:
        config.environment[variable] = os.environ[variable]
if os.path.exists(os.path.join(config.cuda_kernels, "kernels.cuh")):
    config.available_features.add("cuda-kernels")
if subprocess.run([os.path.join(config.moeplan_bin_dir, "moeplanc"), "compile", "--list-cuda-targets"],
                  env=config.environment, capture_output=True).returncode == 0:
    config.available_features.add("nvrtc")
