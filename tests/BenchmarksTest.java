package difyexec;

import org.junit.jupiter.api.*;

import javax.tools.*;

import module java.base;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;

/// The benchmarks run seldom, so nobody would notice if one no longer built.
final class BenchmarksTest {
    private final Path folder = WholeCommand.checkout().resolve("benchmarks");

    private List<Path> files(String pattern) throws IOException {
        try (var files = Files.list(folder)) {
            return files.filter(file -> file.getFileName().toString().matches(pattern)).sorted().toList();
        }
    }

    @Nested
    class TheBenchmarks {
        /// One pass of the compiler without output. Tool and tests are on the class path.
        @Test
        void compile() throws IOException {
            var compiler = ToolProvider.getSystemJavaCompiler();
            var problems = new DiagnosticCollector<JavaFileObject>();
            try (var manager = compiler.getStandardFileManager(problems, null, UTF_8);
                    var output = new ForwardingJavaFileManager<JavaFileManager>(manager) {
                        @Override
                        public JavaFileObject getJavaFileForOutput(Location location, String name,
                                JavaFileObject.Kind kind, FileObject sibling) {
                            return new SimpleJavaFileObject(URI.create("string:///" + name), kind) {
                                @Override
                                public OutputStream openOutputStream() {
                                    return OutputStream.nullOutputStream();
                                }
                            };
                        }
                    }) {
                compiler.getTask(null, output, problems, List.of("-proc:none", "-implicit:none", "-classpath",
                        System.getProperty("java.class.path")), null,
                        manager.getJavaFileObjectsFromPaths(files(".*\\.java"))).call();
            }

            assertEquals(List.of(), problems.getDiagnostics().stream()
                    .filter(problem -> problem.getKind() == Diagnostic.Kind.ERROR).map(Object::toString).toList());
        }

        @Test
        void canBeStartedAndAreOnThePage() throws IOException {
            var page = Files.readString(folder.resolve("README.md"));
            for (var script : files("[a-z]+")) {
                assertTrue(Files.isExecutable(script), script::toString);
                assertTrue(page.contains("`benchmarks/" + script.getFileName()), script::toString);
                var source = Pattern.compile("here/((?:\\.\\./)?[\\w/]+\\.java)").matcher(Files.readString(script));
                assertTrue(source.find() && Files.exists(folder.resolve(source.group(1))), script::toString);
            }
        }
    }
}
