// What a kernel asks of the machine it runs on: a fiber per thread on a CPU, a warp lane as PTX.
#pragma once

#ifdef __NVPTX__
struct EmuLane {
  uint lane, active;
  METAL_FUNC EmuLane() { lane = __nvvm_read_ptx_sreg_laneid(); active = __nvvm_activemask(); }
};
METAL_FUNC uint emu_lane_index() { return __nvvm_read_ptx_sreg_laneid(); }
METAL_FUNC void emu_threadgroup_barrier(ulong) { __syncthreads(); }
METAL_FUNC void emu_simdgroup_barrier(ulong) { __nvvm_bar_warp_sync(__nvvm_activemask()); }
template <class T>
METAL_FUNC threadgroup T& emu_threadgroup_variable(uint) {
  ulong address;
  asm volatile("{ .shared .align 16 .b8 block[%1]; mov.u64 %0, block; }" : "=l"(address) : "n"(sizeof(T)));
  return *(threadgroup T*)address;
}
// libdevice's names.
#define EMU_LIBM(name) __nv_##name
#else
// Must match `struct EmuLane` in runtime/runtime.h.
struct EmuLane {
  uint position_in_grid[4], position_in_threadgroup[4], threadgroup_position[4];
  uint threads_per_grid[4], threads_per_threadgroup[4], dispatch_threads[4], threadgroups[4];
  uint lane, simdgroup, index, simdgroups, dispatch_simdgroups;
  uint phase, active, padding;
  thread uchar* slots[2];
};
extern "C" {
__attribute__((const)) thread EmuLane* emu_lane(void);
void emu_rendezvous(thread EmuLane*, ulong site);
void emu_threadgroup_wait(thread EmuLane*, ulong site);
void emu_simdgroup_wait(thread EmuLane*, ulong site);
void emu_put(thread EmuLane*, const thread void*, uint);
void emu_get(thread EmuLane*, uint lane, thread void*, uint);
threadgroup void* emu_threadgroup_memory(uint site, ulong size);
}
METAL_FUNC uint emu_lane_index() { return emu_lane()->lane; }
METAL_FUNC void emu_threadgroup_barrier(ulong site) { emu_threadgroup_wait(emu_lane(), site); }
METAL_FUNC void emu_simdgroup_barrier(ulong site) { emu_simdgroup_wait(emu_lane(), site); }
template <class T>
METAL_FUNC threadgroup T& emu_threadgroup_variable(uint site) {
  return *(threadgroup T*)emu_threadgroup_memory(site, sizeof(T));
}
#define EMU_LIBM(name) name
#endif

// A rendezvous knows the source line it was called from, so that divergence can be named.
#define EMU_SITE ulong site = ((ulong)__builtin_LINE() << 12) | (ulong)(__builtin_COLUMN() & 4095)

#define EMU_DECLARE1(name) float EMU_LIBM(name)(float);
#define EMU_DECLARE2(name) float EMU_LIBM(name)(float, float);
extern "C" {
EMU_DECLARE1(expf) EMU_DECLARE1(exp2f) EMU_DECLARE1(exp10f) EMU_DECLARE1(logf)
EMU_DECLARE1(log2f) EMU_DECLARE1(log10f) EMU_DECLARE1(sinf) EMU_DECLARE1(cosf)
EMU_DECLARE1(tanf) EMU_DECLARE1(sinhf) EMU_DECLARE1(coshf) EMU_DECLARE1(tanhf)
EMU_DECLARE1(asinf) EMU_DECLARE1(acosf) EMU_DECLARE1(atanf) EMU_DECLARE1(asinhf)
EMU_DECLARE1(acoshf) EMU_DECLARE1(atanhf) EMU_DECLARE2(atan2f) EMU_DECLARE2(powf)
EMU_DECLARE2(fmodf) EMU_DECLARE2(nextafterf)
float EMU_LIBM(ldexpf)(float, int);
}
#undef EMU_DECLARE1
#undef EMU_DECLARE2
