# find_package(mammofm CONFIG) gives the target mammofm::mammofm.
#
# The prefix is what `mammofm-lite config --cmake` prints.
get_filename_component(_mammofm_root "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)
if(NOT TARGET mammofm::mammofm)
  add_library(mammofm::mammofm SHARED IMPORTED)
  set_target_properties(mammofm::mammofm PROPERTIES
    IMPORTED_LOCATION "${_mammofm_root}/lib/libmammofm.so"
    INTERFACE_INCLUDE_DIRECTORIES "${_mammofm_root}/include")
endif()
unset(_mammofm_root)
