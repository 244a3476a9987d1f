/* A shared object that is no kernel library. */
int moeplan_test_unrelated(void);
int moeplan_test_unrelated(void) { return 1; }
