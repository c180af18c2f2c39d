// Counter-based random numbers: every number is a pure function of a key, so any of them can be made anywhere, in any
// order, by any worker, with the same bits on every machine. No std:: distribution and no libm function is used.
#pragma once

#include <cstdint>
#include <vector>

namespace qat {

/// Output number `index` of the SplitMix64 generator (Steele, Lea, Flood: Fast splittable pseudorandom number
/// generators, OOPSLA 2014) started at `state`:
///   z = state + (index + 1) * 0x9e3779b97f4a7c15
///   z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;  z = (z ^ z >> 27) * 0x94d049bb133111eb;  z ^ z >> 31
constexpr uint64_t split_mix64(uint64_t state, uint64_t index = 0) {
  uint64_t z = state + (index + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// A key from one or more integers; the order matters: hash(a) = split_mix64(a), hash(..., b) = split_mix64(hash(...) ^
/// b).
template <class... Rest>
constexpr uint64_t hash(uint64_t first, Rest... rest) {
  uint64_t key = split_mix64(first);
  ((key = split_mix64(key ^ static_cast<uint64_t>(rest))), ...);
  return key;
}

/// The stream of random numbers that belongs to a seed and any further integers (epoch, sample, purpose ...).
class CounterRng {
 public:
  template <class... Stream>
  explicit CounterRng(uint64_t seed, Stream... stream) : key_(hash(seed, stream...)) {}

  /// 64 random bits.
  uint64_t next() { return split_mix64(key_, counter_++); }

  /// A multiple of 2^-53 in [0, 1).
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

  /// An integer in [0, n), each equally likely. Throws Error for n = 0.
  uint64_t below(uint64_t n);

  /// A standard normal number (Marsaglia's polar method).
  double normal();

 private:
  uint64_t key_;
  uint64_t counter_ = 0;
};

/// A random order of 0 .. n-1 (Fisher-Yates). Throws Error for n < 0.
std::vector<int64_t> permutation(int64_t n, uint64_t seed, uint64_t stream = 0);

}  // namespace qat
