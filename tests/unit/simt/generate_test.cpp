#include "runtime/artifact/synthetic_generator.h"
#include "tests/unit/simt/simt_test.h"

#include <cstddef>

namespace moeplan::testing {
namespace {

struct Constants {
  static constexpr long long threads = 64;
};

TEST(SimtGenerateTest, WeightsAreThoseOfTheHost) {
  SyntheticGenerator generator(7);
  for (const FormatInfo &format : kFormats)
    for (const auto &[rows, columns] :
         {std::pair<uint64_t, uint64_t>{1, 50}, {100, 300}, {500, 1030}}) {
      const bool isVector = rows == 1;
      if (isVector && format.isPacked())
        continue;
      const SyntheticWeight weight{"layers.1.experts.2.w1", &format, rows, columns, isVector};
      generator.prepare(weight);
      moeplan_synthetic_copy job = generator.copyOf(weight);
      std::vector<std::byte> expected(job.bytes), made(job.bytes + 16, std::byte(0xee));
      generator.fill(weight, 0, expected);
      for (const unsigned blocks : {1u, 3u, 200u}) {
        std::fill(made.begin(), made.end(), std::byte(0xee));
        job.target = reinterpret_cast<char *>(made.data());
        ASSERT_EQ(simt::run({{blocks, 1, 1}, Constants::threads, simt::Order::Shuffled},
                            [&] { generate_weight<Constants>(nullptr, &job); }),
                  "");
        ASSERT_TRUE(std::equal(expected.begin(), expected.end(), made.begin()))
            << format.name << ' ' << rows << ' ' << blocks;
        for (size_t i = job.bytes; i < made.size(); ++i)
          ASSERT_EQ(made[i], std::byte(0xee)) << "behind its end";
      }
    }
}

} // namespace
} // namespace moeplan::testing
