// The Metal Shading Language on clang's "C++ for OpenCL 2021" front end: its keywords and types.
// Address spaces stay distinct, checked types: device is __global, threadgroup is __local, ...
#pragma once
#pragma OPENCL EXTENSION cl_khr_fp16 : enable

#ifdef __NVPTX__
// Arguments qualified `constant` are ordinary global memory on this target.
#define constant __global
#define half _Float16
#else
#define constant __constant
#endif
#define device __global
#define threadgroup __local
#define thread __private
#define kernel

// OpenCL keywords that are ordinary names in Metal.
#define local emu_name_local
#define global emu_name_global
#define generic emu_name_generic
#define pipe emu_name_pipe

#define METAL_FUNC inline __attribute__((always_inline))
#define METAL_CONST constant
#define __METAL__ 1
#define __METAL_VERSION__ 310

#define NAN __builtin_nanf("")
#define INFINITY __builtin_inff()
#define FLT_MAX 3.402823466e+38f
#define M_PI_F 3.14159265358979f

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long int64_t;
typedef uchar uint8_t;
typedef ushort uint16_t;
typedef uint uint32_t;
typedef ulong uint64_t;
typedef ulong size_t;
typedef long ptrdiff_t;
typedef ulong uintptr_t;
typedef long intptr_t;
typedef __bf16 bfloat;

#define EMU_VECTORS(T)                                 \
  typedef T T##2 __attribute__((ext_vector_type(2))); \
  typedef T T##3 __attribute__((ext_vector_type(3))); \
  typedef T T##4 __attribute__((ext_vector_type(4)));
EMU_VECTORS(char)
EMU_VECTORS(uchar)
EMU_VECTORS(short)
EMU_VECTORS(ushort)
EMU_VECTORS(int)
EMU_VECTORS(uint)
EMU_VECTORS(long)
EMU_VECTORS(ulong)
EMU_VECTORS(float)
EMU_VECTORS(half)
EMU_VECTORS(bfloat)
#undef EMU_VECTORS
