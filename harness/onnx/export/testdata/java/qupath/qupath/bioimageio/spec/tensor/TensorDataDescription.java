package qupath.bioimageio.spec.tensor;

/**
 * Descriptions of tensor data types, primarily ratio types or nominal/ordinal types represented by int-like numeric values.
 */
public interface TensorDataDescription {

}
