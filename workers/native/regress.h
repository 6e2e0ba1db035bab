// Least squares of several targets on the same predictors. The order of operations is fixed, so that the
// result is the same bits everywhere, which that of a BLAS is not.
#pragma once
#include "vector.h"

constexpr double COLLINEAR = 1e-10; // of its square is what others leave of a predictor that is not used

// Products of each predictor with every column, over all rows of `width` columns, predictors first.
static void multiply_columns(const double *rows, i64 count, int predictors, int width, double *products) {
  for (int i = 0; i < predictors * width; ++i) products[i] = 0;
  for (const double *row = rows; row < rows + count * width; row += width)
    for (int i = 0; i < predictors; ++i)
      for (int j = 0; j < width; ++j) products[i * width + j] += row[i] * row[j];
}

// Reduce the normal equations in place: coefficients stand where products with targets stood. Predictors of
// which others leave less than the part `least` are not used.
static void eliminate(double *products, int predictors, int width, double least) {
  double before[64];
  for (int p = 0; p < predictors; ++p) before[p] = products[p * width + p];
  for (int p = 0; p < predictors; ++p) {
    double *pivot = products + p * width;
    const bool is_used = pivot[p] > least * before[p];
    const double inverse = is_used ? 1.0 / pivot[p] : 0.0;
    for (int j = 0; j < width; ++j) pivot[j] *= inverse;
    for (int i = 0; i < predictors; ++i) {
      double *row = products + i * width;
      const double factor = i == p ? 0.0 : row[p];
      for (int j = 0; j < width; ++j) row[j] -= factor * pivot[j];
    }
  }
}

// Regress on the first `predictors` (64 at most) of `width` columns; the others become residuals.
// `products` (predictors x width) holds the coefficients of the others in their columns.
static void regress(double *rows, i64 count, int predictors, int width, double *products) {
  multiply_columns(rows, count, predictors, width, products);
  eliminate(products, predictors, width, COLLINEAR);
  for (double *row = rows; row < rows + count * width; row += width)
    for (int i = 0; i < predictors; ++i)
      for (int j = predictors; j < width; ++j) row[j] -= row[i] * products[i * width + j];
}
