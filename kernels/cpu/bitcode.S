/* The micro-kernel bitcode libraries, one per lane count, as read-only data (see bitcode.h). */
    .section .rodata
    .macro library lanes
    .balign 16
    .globl moeplan_cpu_kernels_\lanes
    .hidden moeplan_cpu_kernels_\lanes
moeplan_cpu_kernels_\lanes:
    .incbin "cpu_kernels_\lanes\().bc"
    .globl moeplan_cpu_kernels_\lanes\()_end
    .hidden moeplan_cpu_kernels_\lanes\()_end
moeplan_cpu_kernels_\lanes\()_end:
    .endm
    library 4
    library 8
    library 16
    .section .note.GNU-stack, "", %progbits
