// The BLAS and LAPACK names that MLX links on Linux, forwarded to the OpenBLAS of the Python package
// scipy-openblas32, whose symbols carry the prefix `scipy_`. A jump leaves every argument, the hidden
// lengths of Fortran strings included, where the caller put it.

#if defined(__x86_64__)
#define FORWARD(name)                                                     \
    asm(".globl " #name "\n.type " #name ", @function\n" #name ":\n"      \
        "    jmp *scipy_" #name "@GOTPCREL(%rip)\n.size " #name ", . - " #name "\n");
#else
#define FORWARD(name)                                                     \
    asm(".globl " #name "\n.type " #name ", %function\n" #name ":\n"      \
        "    adrp x16, :got:scipy_" #name "\n"                            \
        "    ldr x16, [x16, :got_lo12:scipy_" #name "]\n"                 \
        "    br x16\n.size " #name ", . - " #name "\n");
#endif

asm(".text\n");
FORWARD(cblas_sgemm)
FORWARD(cblas_dgemm)
FORWARD(cblas_cgemm)
FORWARD(cgeev_)
FORWARD(cgesdd_)
FORWARD(cheevd_)
FORWARD(dgeev_)
FORWARD(dgeqrf_)
FORWARD(dgesdd_)
FORWARD(dgetrf_)
FORWARD(dgetri_)
FORWARD(dorgqr_)
FORWARD(dpotrf_)
FORWARD(dsyevd_)
FORWARD(dtrtri_)
FORWARD(sgeev_)
FORWARD(sgeqrf_)
FORWARD(sgesdd_)
FORWARD(sgetrf_)
FORWARD(sgetri_)
FORWARD(sorgqr_)
FORWARD(spotrf_)
FORWARD(ssyevd_)
FORWARD(strtri_)
