package difyexec;

import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.Test;

import module java.base;

import java.lang.classfile.ClassFile;
import java.lang.classfile.attribute.NestMembersAttribute;
import java.lang.classfile.constantpool.ClassEntry;
import java.lang.classfile.constantpool.MemberRefEntry;
import java.lang.classfile.constantpool.PoolEntry;
import java.lang.classfile.constantpool.Utf8Entry;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

/// The law of the map: every arrow points down the page.
final class MapTest {

    /// The types at the top of the file, each with its section, in the file's order.
    record Pages(List<String> sections, Map<String, String> sectionOf) {
        private static final Pattern RULE = Pattern.compile("    // ── (\\S.*?) ─+"), TYPE = Pattern.compile(
                "    (?:(?:private|static|final|sealed|abstract|@\\w+) )*(?:class|record|interface|enum) (\\w+).*");

        static Pages of(String source) {
            var sections = new ArrayList<>(List.of("Head"));
            var sectionOf = new LinkedHashMap<>(Map.of("DifyExec", "Head"));
            for (var line : source.lines().toList()) {
                var rule = RULE.matcher(line);
                var type = TYPE.matcher(line);
                if (rule.matches()) sections.add(rule.group(1));
                else if (type.matches()) sectionOf.put(type.group(1), sections.getLast());
            }
            return new Pages(List.copyOf(sections), Collections.unmodifiableMap(sectionOf));
        }

        boolean pointsUp(Arrow arrow) {
            return place(arrow.from()) > place(arrow.to());
        }

        private int place(String type) {
            return sections.indexOf(sectionOf.get(type));
        }

        String tell(Arrow arrow) {
            return arrow.from() + ", " + sectionOf.get(arrow.from()) + " → " + arrow.to() + ", "
                    + sectionOf.get(arrow.to());
        }
    }

    /// A type at the top of the file, or one inside it, names another.
    record Arrow(String from, String to) {
        private static final Pattern NAMED = Pattern.compile("L((?:\\w+/)*DifyExec\\$[\\w$]+)[;<]");

        /// What the compiled classes say: their constants, and the descriptors and signatures among them.
        static Set<Arrow> all() throws IOException {
            var arrows = new LinkedHashSet<Arrow>();
            for (var file : classes()) {
                var model = ClassFile.of().parse(file);
                var from = type(model.thisClass().asInternalName());
                for (var entry : model.constantPool()) named(entry).map(Arrow::type).filter(to -> !to.equals(from))
                        .forEach(to -> arrows.add(new Arrow(from, to)));
            }
            return arrows;
        }

        /// The outermost class is named by all its nest as their host, so it counts only where a member of it is used.
        private static Stream<String> named(PoolEntry entry) {
            return switch (entry) {
                case ClassEntry type when type.asInternalName().contains("DifyExec$") -> Stream.of(
                        type.asInternalName().replaceAll("^\\[+L|;$", ""));
                case MemberRefEntry member when member.owner().asInternalName().endsWith("DifyExec") -> Stream.of(
                        "DifyExec");
                case Utf8Entry text -> NAMED.matcher(text.stringValue()).results().map(match -> match.group(1));
                default -> Stream.empty();
            };
        }

        private static List<byte[]> classes() throws IOException {
            var all = new ArrayList<>(List.of(bytes("DifyExec")));
            for (var attribute : ClassFile.of().parse(all.getFirst()).attributes())
                if (attribute instanceof NestMembersAttribute nest)
                    for (var member : nest.nestMembers()) all.add(bytes(member.asInternalName()
                            .replaceFirst(".*/", "")));
            return all;
        }

        private static byte[] bytes(String name) throws IOException {
            try (var in = DifyExec.class.getResourceAsStream(name + ".class")) {
                return in.readAllBytes();
            }
        }

        private static String type(String internal) {
            var parts = internal.replaceFirst(".*/", "").split("\\$");
            return parts.length == 1 ? parts[0] : parts[1];
        }
    }

    private static String source() throws IOException {
        try (var packed = MapTest.class.getResourceAsStream("/DifyExec.java")) {
            return packed != null ? new String(packed.readAllBytes(), UTF_8)
                    : Files.readString(Stream.of("DifyExec.java", "../DifyExec.java").map(Path::of)
                            .filter(Files::isRegularFile).findFirst().orElseThrow());
        }
    }

    private static List<String> up(Pages pages) throws IOException {
        return Arrow.all().stream().filter(pages::pointsUp).map(pages::tell).sorted().toList();
    }

    @Nested
    class TheMap {
        @Test
        void everyArrowPointsDownThePage() throws IOException {
            assertEquals(List.of(), up(Pages.of(source())), "arrows that point up");
        }

        @Test
        void everyTypeStandsInASection() throws IOException {
            var known = Pages.of(source()).sectionOf().keySet();

            var types = Arrow.all().stream().flatMap(arrow -> Stream.of(arrow.from(), arrow.to())).toList();

            assertTrue(types.size() > 400, types.size() + " types named");
            assertEquals(Set.of(), types.stream().filter(type -> !known.contains(type)).collect(Collectors.toSet()));
        }

        @Test
        void anArrowUpIsNamedWithItsSections() throws IOException {
            var pages = Pages.of(source());
            var turned = new Pages(pages.sections().reversed(), pages.sectionOf());

            var up = up(turned);

            assertTrue(up.contains("Engine, Engine → Judge, Rules"), up.toString());
        }
    }
}
