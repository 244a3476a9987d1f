# moeplan_folder(<name>): the target moeplan_<name>_headers, which alone makes `#include "<name>/..."`
# possible. A target can include only the folders it links, so the rules of who may include whom are
# those of target_link_libraries.
function(moeplan_folder name)
  set(root ${PROJECT_BINARY_DIR}/include-roots/${name})
  file(MAKE_DIRECTORY ${root})
  file(CREATE_LINK ${PROJECT_SOURCE_DIR}/${name} ${root}/${name} SYMBOLIC)
  add_library(moeplan_${name}_headers INTERFACE)
  target_include_directories(moeplan_${name}_headers INTERFACE ${root})
endfunction()
