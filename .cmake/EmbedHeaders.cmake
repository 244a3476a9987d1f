# moeplan_embed_headers(<target> <name> <file> [<name> <file>]...)
#
# Adds to <target> a source that defines cudaHeaders() of compiler/codegen/cuda_headers.h: each <file> by
# the <name> that it is included by.
function(moeplan_embed_headers target)
  set(embed ${PROJECT_SOURCE_DIR}/.cmake/EmbedText.cmake)
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/embedded)
  set(includes "")
  set(rows "")
  set(parts)
  set(index 0)
  while(ARGN)
    list(POP_FRONT ARGN name file)
    set(part ${folder}/header_${index}.inc)
    add_custom_command(OUTPUT ${part}
      COMMAND ${CMAKE_COMMAND} -DINPUT=${file} -DOUTPUT=${part} -DNAME=kHeader${index} -P ${embed}
      DEPENDS ${file} ${embed} VERBATIM)
    string(APPEND includes "#include \"${part}\"\n")
    string(APPEND rows "      {\"${name}\", join(kHeader${index})},\n")
    list(APPEND parts ${part})
    math(EXPR index "${index} + 1")
  endwhile()
  file(CONFIGURE OUTPUT ${folder}/cuda_headers.cpp @ONLY CONTENT
"#include \"compiler/codegen/cuda_headers.h\"

#include <span>
#include <string_view>

@includes@
namespace moeplan::compiler {

static std::string join(std::span<const std::string_view> pieces) {
  std::string text;
  for (std::string_view piece : pieces)
    text += piece;
  return text;
}

const std::vector<CudaHeader> &cudaHeaders() {
  static const std::vector<CudaHeader> headers{
@rows@  };
  return headers;
}

} // namespace moeplan::compiler
")
  set_source_files_properties(${folder}/cuda_headers.cpp PROPERTIES OBJECT_DEPENDS "${parts}")
  target_sources(${target} PRIVATE ${folder}/cuda_headers.cpp)
endfunction()
