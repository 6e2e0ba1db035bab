// The BLAS and LAPACK names that MLX links on Linux, forwarded to the OpenBLAS of the Python package
// scipy-openblas32, whose symbols carry the prefix `scipy_`. A jump leaves every argument, the hidden
// lengths of Fortran strings included, where the caller put it. Large float32 products run on the AMX
// unit where the processor has one.

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

#if defined(__x86_64__)
#include "amx_matmul.h"
#include "amx_unit.h"

extern "C" {
void scipy_cblas_sgemm(int order, int turn_a, int turn_b, int m, int n, int k, float alpha, const float *a, int lda,
                       const float *b, int ldb, float beta, float *c, int ldc);

__attribute__((visibility("default"))) void cblas_sgemm(int order, int turn_a, int turn_b, int m, int n, int k,
                                                        float alpha, const float *a, int lda, const float *b, int ldb,
                                                        float beta, float *c, int ldc) {
  constexpr int ROW_MAJOR = 101, AS_IT_IS = 111;
  const bool large = m >= TILE && n >= TILE && k >= TILE && (i64)m * n * k >= FEWEST_OPERATIONS;
  if (large && order == ROW_MAJOR && alpha == 1 && (beta == 0 || beta == 1) && has_unit()) {
    const Operand left = turn_a == AS_IT_IS ? Operand{a, lda, 1} : Operand{a, 1, lda};
    const Operand right = turn_b == AS_IT_IS ? Operand{b, 1, ldb} : Operand{b, ldb, 1};
    const bool mirrored = a == b && m == n && lda == ldb && turn_a != turn_b && beta == 0;
    if (multiply_in_threads({m, n, k, left, right, c, ldc, beta == 1, mirrored})) return;
  }
  scipy_cblas_sgemm(order, turn_a, turn_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
}
#endif

asm(".text\n");
#if !defined(__x86_64__)
FORWARD(cblas_sgemm)
#endif
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
