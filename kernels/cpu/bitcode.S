/* The micro-kernel bitcode libraries as read-only data (see bitcode.h). */
    .section .rodata
    .macro library name
    .balign 16
    .globl moeplan_cpu_kernels_\name
    .hidden moeplan_cpu_kernels_\name
moeplan_cpu_kernels_\name:
    .incbin "cpu_kernels_\name\().bc"
    .globl moeplan_cpu_kernels_\name\()_end
    .hidden moeplan_cpu_kernels_\name\()_end
moeplan_cpu_kernels_\name\()_end:
    .endm
    library baseline
#if defined(__x86_64__)
    library avx2
    library avxvnni
    library avx512
    library avx512vnni
    library avx512bf16
#endif
    .section .note.GNU-stack, "", %progbits
