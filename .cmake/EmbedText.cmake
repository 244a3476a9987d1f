# cmake -DINPUT=file -DOUTPUT=file.inc -DNAME=kName -P EmbedText.cmake
# Writes INPUT as an array of string literals, each a few lines of it: compilers need not take literals
# of any length.
set(piece_bytes 12000)
file(READ ${INPUT} text)
if(text MATCHES "\\)embed\"")
  message(FATAL_ERROR "${INPUT}: has the delimiter )embed\" of the literals it is to be put into")
endif()
set(pieces "")
string(LENGTH "${text}" length)
while(length GREATER 0)
  set(end ${length})
  if(length GREATER piece_bytes)
    string(SUBSTRING "${text}" 0 ${piece_bytes} piece)
    string(FIND "${piece}" "\n" newline REVERSE)
    if(newline EQUAL -1)
      message(FATAL_ERROR "${INPUT}: has a line of more than ${piece_bytes} bytes")
    endif()
    math(EXPR end "${newline} + 1")
  endif()
  string(SUBSTRING "${text}" 0 ${end} piece)
  string(SUBSTRING "${text}" ${end} -1 text)
  string(LENGTH "${text}" length)
  string(APPEND pieces "R\"embed(${piece})embed\",\n")
endwhile()
get_filename_component(file ${INPUT} NAME)
file(WRITE ${OUTPUT} "// From ${file}.
#include <string_view>

static constexpr std::string_view ${NAME}[] = {
${pieces}};
")
