import java.nio.file.Path;
import qupath.bioimageio.spec.Model;
import qupath.bioimageio.spec.tensor.OutputTensor;

/** Opens packages with QuPath's parser and prints what it has understood, a line each. */
public class Packages {
    public static void main(String[] paths) throws Exception {
        for (String p : paths) {
            Model m = Model.parse(Path.of(p));
            var in = m.getInputs().get(0);
            OutputTensor out = m.getOutputs().get(0);
            System.out.println(m.getFormatVersion() + "|" + m.getName() + "|" + m.getLicense() + "|" + m.getWeights().keySet()
                    + "|" + in.getAxes().length + " axes|" + in.getPreprocessing().get(in.getPreprocessing().size() - 1).getName()
                    + "|" + java.util.Arrays.toString(in.getShape().getShapeMin()) + java.util.Arrays.toString(in.getShape().getShapeStep())
                    + "|" + java.util.Arrays.toString(out.getHalo()));
        }
    }
}
