# MLIR and LLVM as targets, and ODS generation.
#
#   moeplan_mlir                interface target: headers of LLVM and MLIR, the shared libraries
#   moeplan_tablegen(...)       runs mlir-tblgen
#   moeplan_mlir_library(...)   a static library of ours on top of MLIR, with precompiled headers

# Debian's MLIR and LLD are not on CMake's default search path.
set(MOEPLAN_LLVM_PREFIX /usr/lib/llvm-19 CACHE PATH "where LLVM 19, MLIR and LLD are installed")
find_package(MLIR 19.1 REQUIRED CONFIG
  PATHS ${MOEPLAN_LLVM_PREFIX}/lib/cmake/mlir NO_DEFAULT_PATH)
find_package(LLD REQUIRED CONFIG PATHS ${MOEPLAN_LLVM_PREFIX}/lib/cmake/lld NO_DEFAULT_PATH)

add_library(moeplan_mlir INTERFACE)
target_include_directories(moeplan_mlir SYSTEM INTERFACE ${LLVM_INCLUDE_DIRS} ${MLIR_INCLUDE_DIRS})
separate_arguments(moeplan_llvm_definitions NATIVE_COMMAND "${LLVM_DEFINITIONS}")
target_compile_definitions(moeplan_mlir INTERFACE ${moeplan_llvm_definitions})
target_link_libraries(moeplan_mlir INTERFACE MLIR LLVM)

# moeplan_tablegen(<target> <file.td> <out> <arguments> [<out> <arguments>]...)
#
# <out> is relative to the binary directory, <arguments> one string of mlir-tblgen options.
function(moeplan_tablegen target td)
  set(outputs)
  while(ARGN)
    list(POP_FRONT ARGN out arguments)
    separate_arguments(arguments NATIVE_COMMAND "${arguments}")
    set(path ${CMAKE_CURRENT_BINARY_DIR}/${out})
    add_custom_command(OUTPUT ${path}
      COMMAND mlir-tblgen ${arguments} -I ${CMAKE_CURRENT_SOURCE_DIR} -I ${MLIR_INCLUDE_DIRS}
              ${CMAKE_CURRENT_SOURCE_DIR}/${td} -o ${path} -d ${path}.d --write-if-changed
      DEPENDS mlir-tblgen ${CMAKE_CURRENT_SOURCE_DIR}/${td}
      DEPFILE ${path}.d VERBATIM COMMENT "mlir-tblgen ${out}")
    list(APPEND outputs ${path})
  endwhile()
  add_custom_target(${target} DEPENDS ${outputs})
endfunction()

function(moeplan_mlir_library name)
  add_library(${name} STATIC ${ARGN})
  target_link_libraries(${name} PUBLIC moeplan_mlir moeplan_project)
  if(MOEPLAN_PCH)
    if(TARGET moeplan_mlir_pch)
      target_precompile_headers(${name} REUSE_FROM moeplan_mlir_pch)
      target_link_libraries(${name} PUBLIC moeplan_mlir_pch)
    endif()
  endif()
endfunction()

# One precompiled header for every MLIR translation unit: half of their compile time.
if(MOEPLAN_PCH)
  file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/moeplan_mlir_pch.cpp "// Holds the precompiled header.\n")
  add_library(moeplan_mlir_pch STATIC ${CMAKE_CURRENT_BINARY_DIR}/moeplan_mlir_pch.cpp)
  target_link_libraries(moeplan_mlir_pch PUBLIC moeplan_mlir moeplan_project)
  target_precompile_headers(moeplan_mlir_pch PRIVATE
    <mlir/Bytecode/BytecodeOpInterface.h> <mlir/Dialect/Func/IR/FuncOps.h> <mlir/IR/Builders.h>
    <mlir/IR/BuiltinOps.h> <mlir/IR/DialectImplementation.h> <mlir/IR/OpImplementation.h>
    <mlir/IR/PatternMatch.h> <mlir/IR/SymbolTable.h> <mlir/Pass/Pass.h>
    <mlir/Pass/PassManager.h> <mlir/Interfaces/SideEffectInterfaces.h>)
endif()
