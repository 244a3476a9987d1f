// The driver and NVRTC that the CPU plays are named before anything is opened.
#include <cstdlib>
#include <gtest/gtest.h>

int main(int argc, char **argv) {
  setenv("MOEPLAN_LIBCUDA", MOEPLAN_TEST_LIBCUDA, 1);
  setenv("MOEPLAN_NVRTC", MOEPLAN_TEST_NVRTC, 1);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
