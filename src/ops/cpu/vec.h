// Sixteen fp32 lanes, as one AVX-512 register or two AVX2 ones, and the storage types that load into them.
//
// A lane is a channel: blocked activations (N, C/16, X, Y, Z, 16) hold sixteen channels of a voxel side by side.
#pragma once

// GCC 12 warns of the undefined values that its own header passes on purpose (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <cstdint>
#include <cstring>

#define VNET_INLINE inline __attribute__((always_inline))

namespace vnet {

constexpr int kLanes = 16;

// Brain floating point: the upper half of an fp32. For storage only; all arithmetic is fp32.
struct bf16 {
  uint16_t bits;
};

VNET_INLINE float to_float(float x) { return x; }
VNET_INLINE float to_float(bf16 x) {
  uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

#if defined(__AVX512F__)

struct f16 {
  __m512 v;
};

VNET_INLINE f16 zero() { return {_mm512_setzero_ps()}; }
VNET_INLINE f16 set1(float x) { return {_mm512_set1_ps(x)}; }
VNET_INLINE f16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
VNET_INLINE void store(float* p, f16 x) { _mm512_storeu_ps(p, x.v); }
// Non-temporal: for results that are not read again soon; 64-byte aligned; needs fence() before others read.
VNET_INLINE void stream(float* p, f16 x) { _mm512_stream_ps(p, x.v); }
VNET_INLINE f16 operator+(f16 a, f16 b) { return {_mm512_add_ps(a.v, b.v)}; }
VNET_INLINE f16 operator-(f16 a, f16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
VNET_INLINE f16 operator*(f16 a, f16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
VNET_INLINE f16 fma(f16 a, f16 b, f16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
VNET_INLINE f16 fnma(f16 a, f16 b, f16 c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
// Lane by lane x > 0 ? a : b; a NaN in x chooses b.
VNET_INLINE f16 where_positive(f16 x, f16 a, f16 b) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, _mm512_setzero_ps(), _CMP_GT_OQ), b.v, a.v)};
}
// Lane by lane the larger one, NaN if either is one.
VNET_INLINE f16 maximum(f16 a, f16 b) {  // the instruction returns b where either is a NaN
  return {_mm512_mask_mov_ps(_mm512_max_ps(a.v, b.v), _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), a.v)};
}
VNET_INLINE float sum(f16 x) { return _mm512_reduce_add_ps(x.v); }

VNET_INLINE f16 load(const bf16* p) {
  __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
VNET_INLINE __m256i to_bf16_bits(f16 x) {
  __m512i bits = _mm512_castps_si512(x.v);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  // Rounding up could turn a NaN into an infinity or a zero: a quiet NaN is stored instead.
  __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}
VNET_INLINE void store(bf16* p, f16 x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bf16_bits(x)); }
VNET_INLINE void stream(bf16* p, f16 x) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), to_bf16_bits(x)); }

// e^x, relative error about 1e-7; 0 below -87, infinity above 88.4; NaN stays NaN.
// Cody and Waite range reduction, Taylor polynomial of degree 6 on [-ln2/2, ln2/2].
VNET_INLINE f16 exp(f16 x) {
  // Operand order: max and min return their second operand when one is NaN.
  __m512 t = _mm512_min_ps(_mm512_set1_ps(88.8f), _mm512_max_ps(_mm512_set1_ps(-87.4f), x.v));
  __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(t, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
  t = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), t);
  t = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), t);
  __m512 p = _mm512_set1_ps(1.0f / 720);
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(1.0f / 120));
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(1.0f / 24));
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(1.0f / 6));
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.5f));
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(1.0f));
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(1.0f));
  return {_mm512_scalef_ps(p, n)};
}

VNET_INLINE f16 operator/(f16 a, f16 b) { return {_mm512_div_ps(a.v, b.v)}; }
VNET_INLINE f16 sqrt(f16 x) { return {_mm512_sqrt_ps(x.v)}; }

// Lane k of the result is the sum of the lanes of x[k], k < 16: adding while transposing, 30 shuffles in all.
VNET_INLINE f16 lane_sums(const f16* x) {
  __m512 four[4], eight[2];
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    const f16* y = x + 4 * k;
    __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(y[0].v, y[1].v), _mm512_unpackhi_ps(y[0].v, y[1].v));
    __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(y[2].v, y[3].v), _mm512_unpackhi_ps(y[2].v, y[3].v));
    __m512d c = _mm512_castps_pd(a), d = _mm512_castps_pd(b);
    four[k] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(c, d)), _mm512_castpd_ps(_mm512_unpackhi_pd(c, d)));
  }
#pragma GCC unroll 2
  for (int k = 0; k < 2; ++k) {
    __m512 a = four[2 * k], b = four[2 * k + 1];
    eight[k] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  }
  return {_mm512_add_ps(_mm512_shuffle_f32x4(eight[0], eight[1], 0x88),
                        _mm512_shuffle_f32x4(eight[0], eight[1], 0xdd))};
}

constexpr int kRegisters = 32;  // how many f16 the registers hold

// rows[i] lane j <-> rows[j] lane i, of sixteen rows.
VNET_INLINE void transpose(f16* rows) {
  __m512 pair[16], quad[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    pair[i] = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v);
    pair[i + 1] = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    for (int half = 0; half < 2; ++half) {
      __m512d a = _mm512_castps_pd(pair[i + half]), b = _mm512_castps_pd(pair[i + 2 + half]);
      quad[i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
      quad[i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
  }
  // quad[4 q + j] holds columns j, j + 4, j + 8, j + 12 of rows 4 q to 4 q + 3, one a 128-bit quarter.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    __m512 a = _mm512_shuffle_f32x4(quad[j], quad[4 + j], 0x88);
    __m512 b = _mm512_shuffle_f32x4(quad[8 + j], quad[12 + j], 0x88);
    __m512 c = _mm512_shuffle_f32x4(quad[j], quad[4 + j], 0xdd);
    __m512 d = _mm512_shuffle_f32x4(quad[8 + j], quad[12 + j], 0xdd);
    rows[j].v = _mm512_shuffle_f32x4(a, b, 0x88);
    rows[j + 8].v = _mm512_shuffle_f32x4(a, b, 0xdd);
    rows[j + 4].v = _mm512_shuffle_f32x4(c, d, 0x88);
    rows[j + 12].v = _mm512_shuffle_f32x4(c, d, 0xdd);
  }
}

#else  // AVX2 and FMA

struct f16 {
  __m256 lo, hi;
};

VNET_INLINE f16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
VNET_INLINE f16 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
VNET_INLINE f16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
VNET_INLINE void store(float* p, f16 x) {
  _mm256_storeu_ps(p, x.lo);
  _mm256_storeu_ps(p + 8, x.hi);
}
VNET_INLINE void stream(float* p, f16 x) {
  _mm256_stream_ps(p, x.lo);
  _mm256_stream_ps(p + 8, x.hi);
}
VNET_INLINE f16 operator+(f16 a, f16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
VNET_INLINE f16 operator-(f16 a, f16 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
VNET_INLINE f16 operator*(f16 a, f16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
VNET_INLINE f16 fma(f16 a, f16 b, f16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
VNET_INLINE f16 fnma(f16 a, f16 b, f16 c) {
  return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}
VNET_INLINE f16 where_positive(f16 x, f16 a, f16 b) {
  __m256 none = _mm256_setzero_ps();
  return {_mm256_blendv_ps(b.lo, a.lo, _mm256_cmp_ps(x.lo, none, _CMP_GT_OQ)),
          _mm256_blendv_ps(b.hi, a.hi, _mm256_cmp_ps(x.hi, none, _CMP_GT_OQ))};
}
VNET_INLINE __m256 maximum_of_8(__m256 a, __m256 b) {
  return _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}
VNET_INLINE f16 maximum(f16 a, f16 b) { return {maximum_of_8(a.lo, b.lo), maximum_of_8(a.hi, b.hi)}; }
VNET_INLINE float sum(f16 x) {
  __m256 a = _mm256_add_ps(x.lo, x.hi);
  __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  b = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}

VNET_INLINE __m256 widen(__m128i half) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
VNET_INLINE f16 load(const bf16* p) {
  const __m128i* q = reinterpret_cast<const __m128i*>(p);
  return {widen(_mm_loadu_si128(q)), widen(_mm_loadu_si128(q + 1))};
}
VNET_INLINE __m256i rounded_half(__m256 x) {
  __m256i bits = _mm256_castps_si256(x);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), _mm256_castps_si256(nan));
  return _mm256_srli_epi32(rounded, 16);
}
VNET_INLINE __m256i to_bf16_bits(f16 x) {
  __m256i packed = _mm256_packus_epi32(rounded_half(x.lo), rounded_half(x.hi));
  return _mm256_permute4x64_epi64(packed, 0xd8);  // pack works within 128-bit halves
}
VNET_INLINE void store(bf16* p, f16 x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bf16_bits(x)); }
VNET_INLINE void stream(bf16* p, f16 x) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), to_bf16_bits(x)); }

VNET_INLINE __m256 exp_half(__m256 x) {
  __m256 t = _mm256_min_ps(_mm256_set1_ps(88.8f), _mm256_max_ps(_mm256_set1_ps(-87.3f), x));
  __m256 n = _mm256_round_ps(_mm256_mul_ps(t, _mm256_set1_ps(1.44269504f)),
                             _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  t = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), t);
  t = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), t);
  __m256 p = _mm256_set1_ps(1.0f / 720);
  p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(1.0f / 120));
  p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(1.0f / 24));
  p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(1.0f / 6));
  p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(0.5f));
  p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(1.0f));
  p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(1.0f));
  // 2^n in two factors, since n reaches 128, one more than an fp32 exponent holds.
  __m256i k = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(k, 1);
  __m256i bias = _mm256_set1_epi32(127);
  __m256 a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  __m256 b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(k, half), bias), 23));
  __m256 result = _mm256_mul_ps(_mm256_mul_ps(p, a), b);
  return _mm256_blendv_ps(result, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}
VNET_INLINE f16 exp(f16 x) { return {exp_half(x.lo), exp_half(x.hi)}; }

VNET_INLINE f16 operator/(f16 a, f16 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
VNET_INLINE f16 sqrt(f16 x) { return {_mm256_sqrt_ps(x.lo), _mm256_sqrt_ps(x.hi)}; }

VNET_INLINE __m256 lane_sums_of_8(const f16* x) {
  __m256 two[4], four[2];
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    two[k] = _mm256_hadd_ps(_mm256_add_ps(x[2 * k].lo, x[2 * k].hi), _mm256_add_ps(x[2 * k + 1].lo, x[2 * k + 1].hi));
  }
  four[0] = _mm256_hadd_ps(two[0], two[1]);
  four[1] = _mm256_hadd_ps(two[2], two[3]);
  return _mm256_add_ps(_mm256_permute2f128_ps(four[0], four[1], 0x20), _mm256_permute2f128_ps(four[0], four[1], 0x31));
}
VNET_INLINE f16 lane_sums(const f16* x) { return {lane_sums_of_8(x), lane_sums_of_8(x + 8)}; }

constexpr int kRegisters = 8;

VNET_INLINE void transpose_of_8(__m256* rows) {
  __m256 pair[8], quad[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    pair[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    pair[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      quad[i + 2 * half] = _mm256_shuffle_ps(pair[i + half], pair[i + 2 + half], 0x44);
      quad[i + 2 * half + 1] = _mm256_shuffle_ps(pair[i + half], pair[i + 2 + half], 0xee);
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    rows[j] = _mm256_permute2f128_ps(quad[j], quad[4 + j], 0x20);
    rows[j + 4] = _mm256_permute2f128_ps(quad[j], quad[4 + j], 0x31);
  }
}
// rows[i] lane j <-> rows[j] lane i, of sixteen rows.
VNET_INLINE void transpose(f16* rows) {
  __m256 left[2][8], right[2][8];  // of the upper and the lower eight rows
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    left[i / 8][i % 8] = rows[i].lo;
    right[i / 8][i % 8] = rows[i].hi;
  }
#pragma GCC unroll 2
  for (int part = 0; part < 2; ++part) {
    transpose_of_8(left[part]);
    transpose_of_8(right[part]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    rows[i] = {left[0][i], left[1][i]};
    rows[i + 8] = {right[0][i], right[1][i]};
  }
}

#endif

// Streaming stores become visible to other threads only after a fence.
VNET_INLINE void fence() { _mm_sfence(); }

VNET_INLINE f16 operator-(f16 x) { return zero() - x; }

}  // namespace vnet
