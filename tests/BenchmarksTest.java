package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.api.io.TempDir;

import javax.tools.ToolProvider;

import module java.base;

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
        /// One pass of the compiler. Tool and tests are on the class path.
        @Tag("slow")
        @Test
        void compile(@TempDir Path classes) throws IOException {
            var problems = new ByteArrayOutputStream();
            var options = List.of("-proc:none", "-implicit:none", "-nowarn", "-d", classes.toString(),
                    "-classpath", System.getProperty("java.class.path"));
            var scripts = files(".*\\.java").stream().map(Path::toString).toArray(String[]::new);

            int code = ToolProvider.getSystemJavaCompiler().run(null, null, problems,
                    WholeCommand.words(options, scripts));

            assertEquals(0, code, problems::toString);
        }

        /// JBang compiles a script with the files that it names, and takes the first version of a library.
        @Test
        void nameTheToolAndOneVersionOfEachLibrary() throws IOException {
            var checkout = WholeCommand.checkout();
            var scripts = new ArrayList<>(files(".*\\.java"));
            try (var support = Files.list(checkout.resolve("tests/support"))) {
                support.filter(file -> file.toString().endsWith(".java")).forEach(scripts::add);
            }
            for (var script : scripts) {
                if (!Files.readString(script).startsWith("///usr/bin/env jbang")) continue;
                var texts = new LinkedHashMap<Path, String>();
                addSources(script.normalize(), texts);
                assertTrue(texts.containsKey(checkout.resolve("DifyExec.java").normalize())
                        || texts.values().stream().noneMatch(text -> text.contains("difyexec.DifyExec")),
                        () -> script + " does not name DifyExec.java");
                var versions = new TreeMap<String, String>();
                for (var text : texts.values()) lines("DEPS", text).forEach(library -> {
                    var name = library.substring(0, library.lastIndexOf(':'));
                    var version = library.substring(name.length());
                    assertEquals(version, versions.getOrDefault(name, version), () -> script + ": " + name);
                    versions.put(name, version);
                });
            }
        }

        private static void addSources(Path script, Map<Path, String> texts) throws IOException {
            if (texts.containsKey(script)) return;
            texts.put(script, Files.readString(script));
            for (var name : lines("SOURCES", texts.get(script)))
                addSources(script.resolveSibling(name).normalize(), texts);
        }

        private static List<String> lines(String kind, String text) {
            return Pattern.compile("(?m)^//" + kind + " (\\S+)").matcher(text).results()
                    .map(one -> one.group(1)).toList();
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
